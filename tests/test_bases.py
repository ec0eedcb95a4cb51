"""A dense network is trained once per description, also by processes that ask at the same time."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from prune_cli.bases import get_or_train, identity
from prune_cli.errors import PruneError
from prune_cli.models import CifarResNet
from prune_cli.record import Epoch, Fit
from prune_cli.training.recipe import Recipe

FIT = Fit(1, 2.0, 3.0, 0.5, 0.5, (Epoch(1, 0.1, 0.5, 0.01, 2.0),))


def get(store, model=None, parts=None, name="net"):
    calls = []
    model = model or nn.Linear(4, 2)

    def train(journal):
        calls.append(1)
        nn.init.constant_(model.weight, 7.0)
        return FIT

    return get_or_train(store, name, parts or {"recipe": Recipe()}, model, train), len(calls), model


def test_trained_once_then_reused(tmp_path):
    base, calls, _ = get(tmp_path)
    assert (base.source, calls) == ("trained", 1)
    again, calls, model = get(tmp_path)
    assert (again.source, calls, again.fit, again.path) == ("store", 0, FIT, base.path)
    assert torch.equal(model.weight, torch.full((2, 4), 7.0))
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith(".")] == [f"net-{base.identity}"]


def test_any_change_of_the_description_is_another_network(tmp_path):
    parts = {"recipe": Recipe(), "model": CifarResNet(), "seed": 0, "data": "abc", "precision": "torch.float32"}
    changed = [
        {"recipe": replace(Recipe(), epochs=31)},
        {"recipe": replace(Recipe(), lr=0.2)},
        {"model": CifarResNet(depth=20)},
        {"seed": 1},
        {"data": "abd"},
        {"precision": "torch.bfloat16"},
    ]
    hashes = [identity({**parts, **change})[1] for change in [{}, *changed]]
    assert len(set(hashes)) == len(hashes)


def test_identities_do_not_change_between_versions():
    """These name networks on users' disks: a change here makes them train again, so raise VERSION knowingly."""
    assert identity({"recipe": Recipe()})[1] == "ef352cf76b15"
    assert (
        identity({"recipe": Recipe(epochs=8, lr=0.05), "model": CifarResNet(depth=20), "seed": 3})[1] == "fd977fa7a1ec"
    )
    text, _ = identity({"model": CifarResNet(depth=20)})
    assert json.loads(text) == {"version": 1, "model": {"is": "CifarResNet", "depth": 20}}  # defaults are left out


@pytest.mark.parametrize("file", ["model.safetensors", "base.json"])
def test_a_damaged_entry_is_an_error_and_nothing_is_trained(tmp_path, file):
    base, _, _ = get(tmp_path)
    path = tmp_path / f"net-{base.identity}" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(PruneError, match=r"damaged.*remove"):
        get(tmp_path)
    assert path.read_bytes() == data


def test_a_training_that_fails_leaves_nothing(tmp_path):
    def fails(journal):
        raise PruneError("diverged")

    with pytest.raises(PruneError):
        get_or_train(tmp_path, "net", {}, nn.Linear(1, 1), fails)
    assert [p for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_of_many_at_once_one_trains(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: get(tmp_path), range(12)))
    assert sum(calls for _, calls, _ in results) == 1
    assert {base.path for base, _, _ in results} == {results[0][0].path}
