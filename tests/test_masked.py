"""Switching channels off is what surgery does by cutting them, for any network, group and precision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prune_cli.channels import trace
from prune_cli.compute import Place
from prune_cli.data.images import Look, MemoryImages
from prune_cli.masked import MaskedNetwork
from prune_cli.plan import Plan, Width
from prune_cli.surgery import apply
from tests.networks import REAL, TINY, half_of, make


def pictures(shape, count=6, classes=4):
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return MemoryImages(pixels, torch.arange(count) % classes, Look((0.5,) * 3, (0.25,) * 3))


def measured(model, images, place):
    x, y = next(images.batches(len(images), place))
    with torch.no_grad():
        logits = model(x)
    return F.cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


@pytest.mark.parametrize("name", [*TINY, "grouped", "googlenet", "shufflenet_v2", "efficientnet"])
def test_off_is_cut(name, place):
    model, shape = make(name)
    network, images = trace(model, shape), pictures(shape)
    masked = MaskedNetwork(network, images, place, batch=4)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    kept = half_of(network)
    groups = list(kept)[:: max(1, len(kept) // 6)]
    for chosen in [[group] for group in groups] + [groups]:
        part = {group: kept[group] for group in chosen}
        on = {g: np.isin(np.arange(network.groups[g].size), part[g])[None] for g in part}
        found = masked.measure(on)
        loss, accuracy = measured(
            apply(model, Plan(tuple(Width(*item) for item in part.items())), shape), images, place
        )
        assert found.loss[0] == pytest.approx(loss, abs=1e-4, rel=1e-4)
        assert found.accuracy[0] == pytest.approx(accuracy, abs=1e-6)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_each_mask_gets_its_own_number_whatever_came_before(place):
    model, shape = make("resnet-pad")
    network = trace(model, shape)
    masked = MaskedNetwork(network, pictures(shape), place)
    name = next(g.name for g in network.groups.values() if not g.is_stream)
    on = np.random.default_rng(0).random((8, network.groups[name].size)) < 0.5
    together = masked.measure({name: on})
    for number in range(8):
        assert masked.measure({name: on[number : number + 1]}).loss[0] == together.loss[number]


def test_all_off_leaves_the_bias(place):
    model, shape = make("vgg")
    network, images = trace(model, shape), pictures(shape)
    group = list(network.groups.values())[-1]
    off = MaskedNetwork(network, images, place).measure({group.name: np.zeros((1, group.size), dtype=bool)})
    _, y = next(images.batches(len(images), place))
    assert off.loss[0] == pytest.approx(F.cross_entropy(model.classifier.bias.expand(len(y), -1), y).item(), abs=1e-6)


def test_half_precision_ranks_masks_alike(place):
    from scipy.stats import spearmanr

    model, shape = REAL["resnet20"][0]().eval(), (3, 32, 32)
    network, images = trace(model, shape), pictures(shape, 16)
    group = next(g for g in network.groups.values() if not g.is_stream)
    on = {group.name: np.random.default_rng(0).random((40, group.size)) < 0.5}
    half = Place(torch.device("cpu"), torch.bfloat16, channels_last=True, threads=1)
    exact, rough = (MaskedNetwork(network, images, p).measure(on).loss for p in (place, half))
    assert spearmanr(exact, rough).statistic > 0.9


def test_other_kinds_of_padding_stay(place):
    convs = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect")]
    model = torch.nn.Sequential(*convs, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 4)).eval()
    network, images = trace(model, (3, 8, 8)), pictures((3, 8, 8))
    found = MaskedNetwork(network, images, place).measure({"0": np.arange(6)[None] < 3})
    loss, _ = measured(apply(model, Plan((Width("0", (0, 1, 2)),)), (3, 8, 8)), images, place)
    assert found.loss[0] == pytest.approx(loss, abs=1e-5)
