"""Mask transfer: the same structure, other weights."""

import json

import pytest
import torch

from prune_cli.budget import Budget
from prune_cli.channels import trace
from prune_cli.errors import PruneError
from prune_cli.pruners.magnitude import Magnitude
from prune_cli.pruners.transfer import Transfer
from prune_cli.surgery import apply
from tests.networks import make

ANY = (trace(*make("resnet-pad")), Budget())


@pytest.fixture
def host(tmp_path, data, place):
    """The folder of a run that has pruned a network, and its plan."""
    model, shape = make("resnet-pad")
    plan = Magnitude(streams=True).plan(trace(model, shape), data, Budget(keep=0.5), place, 0)
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    return tmp_path, plan


@pytest.mark.parametrize("fresh", [False, True])
def test_same_channels_other_weights(fresh, host, data, place):
    folder, plan = host
    torch.manual_seed(5)
    student, shape = make("resnet-pad")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    method = Transfer(str(folder), fresh=fresh)
    network = trace(student, shape)
    method.check(network, Budget())
    carried = method.plan(network, data, Budget(), place, 0)
    assert carried.edits == plan.edits
    hosts, students = (apply(m, p, shape).state_dict() for m, p in ((make("resnet-pad")[0], plan), (student, carried)))
    assert {k: v.shape for k, v in hosts.items()} == {k: v.shape for k, v in students.items()}
    assert not torch.equal(hosts["linear.weight"], students["linear.weight"])
    kept = student.layer1[0].bn1.bias[list(next(e.keep for e in plan.edits if e.group == "layer1.0.conv1"))]
    assert torch.equal(students["layer1.0.bn1.bias"], kept) is not fresh


def test_the_file_itself_may_be_named(host):
    model, shape = make("resnet-pad")
    Transfer(str(host[0] / "plan.json")).check(trace(model, shape), Budget())


def test_a_plan_for_another_network_is_refused(host):
    model, shape = make("vgg")
    with pytest.raises(PruneError, match="does not fit this network"):
        Transfer(str(host[0])).check(trace(model, shape), Budget())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1, 2]",
        '{"edits": [{"drop": 3, "keep": 1}, {"group": "a"}]}',
        "\x00",
        '{"edits": [], "sizes": {"conv1": null}}',
    ],
)
def test_damaged_plans_are_told_in_one_line(text, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PruneError):
        Transfer(str(tmp_path)).check(*ANY)


def test_a_missing_run_is_told(tmp_path):
    with pytest.raises(PruneError, match=r"no plan\.json there"):
        Transfer(str(tmp_path / "nothing")).check(*ANY)
    with pytest.raises(PruneError, match="needs plan=RUN_DIR"):
        Transfer(None).check(*ANY)


def test_a_plan_for_other_widths_is_refused(host):
    folder, plan = host
    (folder / "plan.json").write_text(json.dumps({**plan.to_json(), "sizes": {"conv1": 7}}))
    model, shape = make("resnet-pad")
    with pytest.raises(PruneError, match=r"7 channels in conv1; this one has \d+"):
        Transfer(str(folder)).check(trace(model, shape), Budget())


def test_fresh_weights_and_dropped_blocks(tmp_path, data, place):
    (tmp_path / "plan.json").write_text('{"edits": [{"drop": "layer1.1"}]}')
    model, shape = make("resnet-pad")
    plan = Transfer(str(tmp_path), fresh=True).plan(trace(model, shape), data, Budget(), place, 0)
    assert not torch.equal(apply(model, plan, shape).conv1.weight, model.conv1.weight)


def test_an_unknown_fresh_layer_is_told(tmp_path):
    (tmp_path / "plan.json").write_text('{"edits": [], "fresh": ["nope"]}')
    model, shape = make("resnet-pad")
    with pytest.raises(PruneError, match="starts nope afresh, but the network has no such layer"):
        Transfer(str(tmp_path)).check(trace(model, shape), Budget())
