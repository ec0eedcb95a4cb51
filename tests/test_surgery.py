"""Cutting is exact: removed equals silenced, merged equals kept twice, and nothing happens to the input."""

import copy

import pytest
import torch
from torch import nn

from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.plan import Drop, Plan, Width
from prune_cli.surgery import apply
from tests.networks import REAL, TINY, half_of, images, make, zeroed


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def plan_of(kept):
    return Plan(tuple(Width(group, keep) for group, keep in kept.items()))


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", [*TINY, *REAL])
@torch.no_grad()
def test_removed_equals_zeroed(name, dtype, bound):
    model, shape = make(name)
    model = model.to(dtype)
    network = trace(model, shape)
    kept = half_of(network)
    small = apply(model, plan_of(kept), shape)
    x = images(shape, dtype)
    silent = zeroed(network, kept)(x)
    assert relative(small(x), silent) < bound
    assert relative(model(x), silent) > 1e-3  # the cut did change something
    assert type(small) is type(model) and small(x).dtype == dtype


@pytest.mark.parametrize("name", [*TINY, *REAL])
@torch.no_grad()
def test_folding_exact_duplicates_is_lossless(name):
    """The second half of every group's channels are made copies of the first half, then merged into them."""
    model, shape = make(name)
    model = model.double()
    network = trace(model, shape)
    edits = []
    for group in network.groups.values():
        twins = twins_of(group)
        for axis in group.of("write", "depthwise", "norm"):
            copy_rows(model.get_submodule(axis.module), axis, twins)
        keep = tuple(c for c in range(group.size) if twins[c] == c)
        edits.append(Width(group.name, keep, tuple(keep.index(twins[c]) for c in range(group.size))))
    assert any(len(edit.keep) < len(edit.into) for edit in edits)
    small = apply(model, Plan(tuple(edits)), shape)
    x = images(shape, torch.float64)
    assert relative(small(x), model(x)) < 1e-10


def twins_of(group):
    """Pairs of channels that the same layers write, so that one can stand for the other."""
    written = [tuple(channel in axis.index for axis in group.axes) for channel in range(group.size)]
    waiting, twins = {}, list(range(group.size))
    for channel, by in enumerate(written):
        if by in waiting:
            twins[channel] = waiting.pop(by)
        else:
            waiting[by] = channel
    return twins


def copy_rows(module, axis, twins):
    places = {}
    for position, channel in zip(axis.at, axis.index, strict=True):
        places.setdefault(channel, []).append(position)
    for channel, positions in places.items():
        for target, source in zip(positions, places[twins[channel]], strict=True):
            for vector in ("weight", "bias", "running_mean", "running_var"):
                tensor = getattr(module, vector, None)
                if isinstance(tensor, torch.Tensor):
                    tensor.data[target] = tensor.data[source]


@pytest.mark.parametrize("name", ["vgg", "resnet-pad", "resnet-project", "bottleneck", "depthwise"])
@torch.no_grad()
def test_dropped_units_are_gone_and_the_rest_can_still_be_cut(name):
    model, shape = make(name)
    network = trace(model, shape)
    unit = network.units[-1]
    small = apply(model, Plan((Drop(unit),)), shape)
    assert isinstance(small.get_submodule(unit), nn.Identity)
    by_hand = copy.deepcopy(model)
    by_hand.set_submodule(unit, nn.Identity())
    x = images(shape)
    assert torch.equal(small(x), by_hand(x))
    kept = half_of(trace(by_hand, shape))
    both = apply(model, Plan((*plan_of(kept).edits, Drop(unit))), shape)
    assert relative(both(x), zeroed(trace(by_hand, shape), kept)(x)) < 1e-5


@torch.no_grad()
def test_dropping_a_silent_residual_block_changes_nothing():
    model, shape = make("resnet-pad")
    block = model.layer2[1]
    block.bn2.weight.zero_()
    block.bn2.bias.zero_()
    x = images(shape)
    assert relative(apply(model, Plan((Drop("layer2.1"),)), shape)(x), model(x)) < 1e-6


def test_the_zero_padded_stream_can_be_cut_in_all_its_stages():
    model, shape = make("resnet20")
    small = apply(model, Plan((Width("conv1", tuple(range(8, 40))),)), shape)
    widths = [small.conv1, small.layer2[0].conv2, small.layer3[0].conv2]
    assert [conv.out_channels for conv in widths] == [16, 24, 32]  # stage 1 is 24..39, stage 2 is 16..47 of 64
    assert (small.layer2[0].shortcut.before, small.layer2[0].shortcut.after) == (8, 0)


def test_the_input_is_left_alone_and_the_result_is_free_of_hooks():
    model, shape = make("resnet-pad")
    before = copy.deepcopy(model.state_dict())
    model.register_forward_hook(lambda *_: None)
    small = apply(model, plan_of(half_of(trace(model, shape))), shape)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert not any(module._forward_hooks for module in small.modules())
    assert {p.data_ptr() for p in small.parameters()}.isdisjoint(p.data_ptr() for p in model.parameters())


def test_a_plan_replays_to_the_same_bits():
    model, shape = make("depthwise")
    plan = plan_of(half_of(trace(model, shape)))
    small = apply(model, plan, shape)
    other = apply(make("depthwise")[0], Plan.from_json(plan.to_json()), shape)
    other.load_state_dict(small.state_dict())
    assert torch.equal(small(images(shape)), other(images(shape)))


def test_fresh_modules_start_anew():
    model, shape = make("resnet-pad")
    plan = Plan((Width("layer1.0.conv1", (0, 2)),), fresh=("layer1.0.bn1",))
    bn = apply(model, plan, shape).layer1[0].bn1
    values = [bn.weight, bn.bias, bn.running_mean, bn.running_var]
    assert [v.tolist() for v in values] == [[1, 1], [0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    "edits, message",
    [
        ((Width("nowhere", (0,)),), "no group nowhere"),
        ((Width("linear", (0,)),), "network output"),
        ((Width("layer1.0.conv1", ()),), "at least one"),
        ((Width("layer1.0.conv1", (1, 0)),), "ascending"),
        ((Width("layer1.0.conv1", (0, 8)),), r"0\.\.7"),
        ((Width("layer1.0.conv1", (0, 1)), Width("layer1.0.conv1", (0,))), "more than once"),
        ((Width("layer1.0.conv1", (0, 1), (0, 1)),), "a slot"),
        ((Width("layer1.0.conv1", (0, 1), (1, 0, -1, -1, -1, -1, -1, -1)),), "their own"),
        ((Width("conv1", (0, 1)),), "without any"),  # only of the pad in stage 3
        ((Drop("layer2.0"),), "cannot be dropped"),
        ((Drop("layer1.1"), Drop("layer1.1")), "more than once"),
        ((Drop("layer1.1"), Width("layer1.1.conv1", (0,))), "no group"),
    ],
)
def test_plans_that_do_not_fit_are_refused_before_anything_is_cut(edits, message):
    model, shape = make("resnet-pad")
    with pytest.raises(PruneError, match=message):
        apply(model, Plan(edits), shape)
