"""A training that is interrupted after any of its steps goes on to the bits of one that was not."""

import copy
import os
import signal
from dataclasses import replace
from functools import cache

import pytest
import torch

from prune_cli import interruption
from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.compute import Place
from prune_cli.data import Synthetic
from prune_cli.interruption import Interrupted
from prune_cli.journal import Journal
from prune_cli.models.resnet import CifarResNet
from prune_cli.pruners.chipnet import ChipNet
from prune_cli.pruners.csgd import CSgd
from prune_cli.training import fit as loop
from prune_cli.training.fit import fit
from prune_cli.training.recipe import Recipe

STEPS = 24  # three epochs of eight steps
SGD = Recipe(epochs=3, batch=8, lr=0.05)
DTYPES = [torch.float32, torch.bfloat16]
ADAMW = Recipe(epochs=3, batch=8, lr=0.01, optimizer="adamw", schedule="constant")


@pytest.fixture
def signals():
    """SIGTERM is heeded; afterwards all is as it was."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interruption._asked = None


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    flipped = Synthetic("synthetic", [0.5] * 3, [0.25] * 3, images=92, size=16, crop=2, flip=True)
    data = flipped.load(tmp_path_factory.mktemp("cache"))
    assert len(data.train) // SGD.batch * SGD.epochs == STEPS
    return data


@cache
def untrained():
    torch.manual_seed(3)
    return trace(CifarResNet(8, 4, width=0.25), (3, 16, 16))


class Plain:
    """Training without a method."""

    def __init__(self, recipe):
        self.recipe = recipe

    def plan(self, network, data, budget, place, seed):
        return fit(network.model, data, self.recipe, place, seed).curve


METHODS = {"sgd": Plain(SGD), "adamw": Plain(ADAMW), "csgd": CSgd(SGD), "chipnet": ChipNet(ADAMW)}
QUICK = ["sgd", "adamw", "csgd"]


def carry_out(method, data, place):
    """All that a method's training gives, as it would look in a process of its own."""
    network = copy.deepcopy(untrained())
    torch.manual_seed(3)
    given = method.plan(network, data, Budget(), place, 0)
    curve = [replace(epoch, seconds=0.0) for epoch in given] if isinstance(given, list | tuple) else given
    return curve, {name: tensor.clone() for name, tensor in network.model.state_dict().items()}


def assert_same(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys() and all(torch.equal(one[1][name], other[1][name]) for name in one[1])


def interrupt_after(monkeypatch, count):
    """SIGTERM arrives in the middle of a step."""
    real, taken = loop._step, 0

    def step(*arguments):
        nonlocal taken
        taken += 1
        value = real(*arguments)
        if taken == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return value

    monkeypatch.setattr(loop, "_step", step)


@pytest.mark.parametrize("steps", [[8], pytest.param(range(1, STEPS + 1), marks=pytest.mark.slow)], ids=["one", "all"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_after_any_step(tmp_path, monkeypatch, signals, digits, name, dtype, steps):
    """One at a time; after the last step of an epoch too, before it has ended."""
    place = Place(torch.device("cpu"), dtype, channels_last=True, threads=1)
    expected = carry_out(METHODS[name], digits, place)
    for count in steps:
        place = replace(place, journal=Journal(tmp_path / str(count)))
        interruption.heed()
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_after(patch, count)
            carry_out(METHODS[name], digits, place)
        interruption._asked = None
        assert_same(carry_out(METHODS[name], digits, place), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [*QUICK, pytest.param("chipnet", marks=pytest.mark.slow)])
def test_interrupted_after_every_step(tmp_path, monkeypatch, signals, digits, name, dtype):
    """One step at each call, and between them other random numbers are drawn: nothing but the journal is used."""
    place = Place(torch.device("cpu"), dtype, channels_last=True, threads=1)
    expected = carry_out(METHODS[name], digits, place)
    place = replace(place, journal=Journal(tmp_path))
    for _ in range(STEPS):
        interruption.heed()
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_after(patch, 1)
            carry_out(METHODS[name], digits, place)
        interruption._asked = None
        torch.rand(7)
    assert_same(carry_out(METHODS[name], digits, place), expected)
