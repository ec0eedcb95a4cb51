"""What `trace` finds, and that it leaves the network as it was."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_cli.channels import trace
from prune_cli.errors import PruneError
from tests.networks import TINY, make

# Free groups of channels: Torch-Pruning finds the same numbers on the networks that it can follow.
GROUPS = {
    "vgg16": 13,
    "resnet20": 10,
    "resnet20-project": 12,
    "resnet18": 12,
    "resnet50": 37,
    "mobilenet_v2": 25,
    "densenet121": 120,
    "googlenet": 57,
}
UNITS = {"vgg16": 9, "resnet20": 7, "resnet20-project": 7, "resnet18": 5, "resnet50": 12, "mobilenet_v2": 10}


@pytest.mark.parametrize("name", GROUPS)
def test_number_of_groups(name):
    model, shape = make(name)
    assert len(trace(model, shape).groups) == GROUPS[name]


@pytest.mark.parametrize("name", UNITS)
def test_units_are_the_blocks_that_keep_their_shape(name):
    model, shape = make(name)
    assert len(trace(model, shape).units) == UNITS[name]


def test_groups_are_named_after_their_first_writer():
    model, shape = make("resnet20")
    network = trace(model, shape)
    assert list(network.groups)[:2] == ["conv1", "layer1.0.conv1"]
    stream = network.groups["conv1"]
    assert stream.is_stream and stream.size == 64  # one stream through all stages, widest in the last
    assert [len(axis.at) for axis in stream.writers] == [16] * 4 + [32] * 3 + [64] * 3
    assert stream.writers[0].index == tuple(range(24, 40))  # stage 1 sits in the middle of stage 3


@pytest.mark.parametrize("name", [*TINY, "shufflenet_v2", "efficientnet"])
def test_tracing_leaves_weights_mode_and_hooks(name):
    model, shape = make(name)
    model.train()
    next(model.children()).eval()
    calls = []
    hook = model.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    trace(model, shape)
    assert calls == [] and hook.id in model._forward_hooks
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


class Odd(nn.Module):
    """Two convolutions with something in between."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        self.between = between

    def forward(self, x):
        x = self.second(self.between(self.first(x)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    "between, reason",
    [
        (nn.GroupNorm(2, 8), "GroupNorm"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: torch.cat(x.chunk(2, 1), 1), "split by position"),
        (lambda x: F.pad(x[:, :4], (0, 0, 0, 0, 2, 2)), "getitem"),
        (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), "permute"),
        (lambda x: x.view(x.shape[0], 8, x.shape[2], x.shape[3]), "fixed number of channels"),
    ],
)
def test_unknown_operations_freeze_their_channels_with_the_reason(between, reason):
    network = trace(Odd(between), (3, 8, 8))
    assert reason in network.fixed["first"].frozen
    assert "second" in network.groups
    with pytest.raises(PruneError, match="cannot be resized"):
        network.group("first")


@pytest.mark.parametrize(
    "between",
    [nn.ReLU(), nn.PReLU(8), nn.Dropout(), lambda x: F.max_pool2d(x, 2), lambda x: x[:, :, ::2], lambda x: x * 2 + x],
)
def test_known_operations_do_not(between):
    assert list(trace(Odd(between), (3, 8, 8)).groups) == ["first", "second"]


def test_a_layer_called_twice_is_one_layer():
    class Twice(Odd):
        def forward(self, x):
            return self.head(self.second(self.second(self.first(x))).mean((2, 3)))

    network = trace(Twice(None), (3, 8, 8))
    assert [group.size for group in network.groups.values()] == [8]  # first and second write the same channels
    assert network.cost("macs") == 64 * 9 * 8 * (3 + 2 * 8) + 8 * 4


def test_parts_that_run_in_training_only_are_refused():
    class Helped(Odd):
        def __init__(self):
            super().__init__(nn.ReLU())
            self.aux = nn.Conv2d(8, 1, 1)

        def forward(self, x):
            return super().forward(x) + (self.aux(self.first(x)).mean() if self.training else 0)

    with pytest.raises(PruneError, match=r"aux run in training only"):
        trace(Helped().eval(), (3, 8, 8))


def test_what_cannot_be_traced_says_so_in_one_line():
    class Branching(Odd):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(PruneError, match="cannot trace Branching") as error:
        trace(Branching(None), (3, 8, 8))
    assert "\n" not in str(error.value)
    with pytest.raises(PruneError, match="cannot take an input of 1x8x8"):
        trace(Odd(nn.ReLU()), (1, 8, 8))


def test_layers_that_take_a_list_are_no_units():
    model, shape = make("concat")  # its first layers keep their shape
    assert trace(model, shape).units == ()
