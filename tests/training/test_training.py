"""One loop: it learns, it is repeatable, its hooks are called, and it stops when the loss is not finite."""

import math

import pytest
import torch
from torch import nn

from prune_cli.compute import Compute, Place, has_fast_bf16
from prune_cli.errors import DivergedError, PruneError
from prune_cli.models.resnet import CifarResNet
from prune_cli.training.fit import Hooks, evaluate, fit
from prune_cli.training.recipe import Recipe
from prune_cli.training.statistics import reestimate


def net():
    torch.manual_seed(0)
    return CifarResNet(8, 4, width=0.5)


FAST = Recipe(epochs=6, batch=16, lr=0.05)


def test_it_learns_and_reports(data, place):
    model = net()
    result = fit(model, data, FAST, place, seed=0)
    assert result.val_accuracy > 0.8 and result.best_val_accuracy >= result.val_accuracy
    assert [epoch.epoch for epoch in result.curve] == [1, 2, 3, 4, 5, 6]
    assert result.curve[-1].train_loss < result.curve[0].train_loss
    assert evaluate(model, data.val, place) == result.val_accuracy


def states(model):
    return [t.clone() for t in model.state_dict().values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("optimizer, lr", [("sgd", 0.1), ("adamw", 0.003)])
def test_same_seed_same_bits(data, optimizer, lr, dtype):
    place = Place(torch.device("cpu"), dtype, channels_last=True, threads=1)
    recipe = Recipe(epochs=1, batch=16, lr=lr, optimizer=optimizer)
    runs = []
    for seed in (0, 0, 1):
        model = net()
        fit(model, data, recipe, place, seed)
        runs.append(states(model))
    same, differs = (all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True)) for run in runs[1:])
    assert same and not differs


def test_no_epochs_changes_nothing(data, place):
    model = net()
    before = states(model)
    result = fit(model, data, Recipe(epochs=0), place, seed=0)
    assert result.epochs == 0 and all(torch.equal(a, b) for a, b in zip(before, states(model), strict=True))


def test_a_loss_that_is_not_finite_stops_at_once(data, place):
    with pytest.raises(DivergedError, match=r"loss was (nan|inf) at step \d+ .*lower lr"):
        fit(net(), data, Recipe(epochs=2, batch=16, lr=999.0, schedule="constant", weight_decay=10.0), place, seed=0)
    model = net()
    model.conv1.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(DivergedError, match="step 1 "):
        fit(model, data, FAST, place, seed=0)


def test_hooks_are_called_where_they_say(data, place):
    calls = []
    extra = nn.Parameter(torch.ones(1))
    hooks = Hooks(
        parameters=[{"params": [extra], "lr": 0.5, "weight_decay": 0.0}],
        penalty=lambda: (calls.append("penalty"), extra.sum())[1],
        after_backward=lambda: calls.append("backward"),
        after_step=lambda step: calls.append(step),
        after_epoch=lambda epoch: calls.append(f"epoch {epoch}"),
    )
    fit(net(), data, Recipe(epochs=1, batch=48, lr=0.1, schedule="constant"), place, seed=0, hooks=hooks)
    assert calls == ["penalty", "backward", 1, "penalty", "backward", 2, "epoch 1"]
    assert extra.item() < 0  # 1 - 0.5 * (1 + ...): its own learning rate


def test_norms_and_biases_can_be_spared_weight_decay(data, place):
    recipe = Recipe(epochs=1, batch=16, lr=1e-9, schedule="constant", weight_decay=10.0, decay_norm_bias=False)
    shrunk = fitted(data, place, Recipe(**{**vars(recipe), "decay_norm_bias": True, "lr": 0.01}))
    spared = fitted(data, place, Recipe(**{**vars(recipe), "lr": 0.01}))
    assert shrunk.bn1.weight.mean() < 0.6 < 0.9 < spared.bn1.weight.mean()
    assert shrunk.conv1.weight.norm() < net().conv1.weight.norm()
    assert spared.conv1.weight.norm() < net().conv1.weight.norm()


def fitted(data, place, recipe, **options):
    model = net()
    fit(model, data, recipe, place, seed=0, **options)
    return model


def test_distillation_follows_the_teacher(data, place):
    teacher = fitted(data, place, FAST)

    def distance(share):
        recipe = Recipe(epochs=8, batch=16, lr=0.02, distillation=share, temperature=2.0)
        student = fitted(data, place, recipe, teacher=teacher)
        x = next(data.val.batches(64, place))[0]
        with torch.no_grad():
            gap = student.eval()(x).softmax(1) - teacher.eval()(x).softmax(1)
        return gap.abs().mean().item()

    assert distance(1.0) < distance(0.0)
    untouched = fitted(data, place, Recipe(epochs=1, batch=16, lr=0.05), teacher=teacher)
    alone = fitted(data, place, Recipe(epochs=1, batch=16, lr=0.05))
    assert all(torch.equal(a, b) for a, b in zip(states(untouched), states(alone), strict=True))  # off by default


def test_schedules_in_epochs():
    one = Recipe(epochs=10)
    assert one.rate(0) == pytest.approx(1 / 25) and one.rate(3) == 1 and one.rate(10) == pytest.approx(1e-4)
    cosine = Recipe(epochs=10, schedule="cosine", warmup=2)
    assert cosine.rate(1) == pytest.approx(0.5) and cosine.rate(2) == 1 and cosine.rate(10) == pytest.approx(0)
    assert cosine.rate(6) == pytest.approx(0.5)
    step = Recipe(epochs=10, schedule="step", milestones=(5, 8), gamma=0.1)
    assert [step.rate(e) for e in (0, 4.99, 5, 8)] == pytest.approx([1, 1, 0.1, 0.01])
    assert Recipe(schedule="constant").rate(7) == 1


def test_evaluation_keeps_the_mode(data, place):
    model = net().train()
    evaluate(model, data.val, place)
    assert model.training


def test_compute_is_resolved_and_refuses_what_is_not_there():
    place = Compute(threads=1, precision="fp32", layout="nchw").resolve()
    assert (place.threads, place.dtype, place.channels_last) == (1, torch.float32, False)
    assert Compute(threads="auto").resolve().threads >= 1
    auto = Compute(threads=1).resolve()
    assert auto.dtype == (torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32)
    if not torch.cuda.is_available():
        with pytest.raises(PruneError, match="0 CUDA devices"):
            Compute(device="cuda").resolve()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_it_learns_on_cuda(data):
    place = Compute(device="cuda", threads=1).resolve()
    assert fit(net(), data, FAST, place, seed=0).val_accuracy > 0.8


def test_reestimated_statistics_are_averages_over_batches(data, place):

    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    model[0].running_mean.fill_(7)
    count = len(data.train)
    reestimate(model, data.train, place, count, 0, batch=count)
    ((x, _),) = data.train.batches(count, place)
    assert torch.allclose(model[0].running_mean, x.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[0].running_var, x.transpose(0, 1).flatten(1).var(1), rtol=1e-3)
    assert model[0].momentum == 0.1 and model.training
