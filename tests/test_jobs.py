"""An experiment is known by what it is: found when it was finished, wherever it lies; told apart when it differs."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import prune_cli
from prune_cli.budget import Budget
from prune_cli.compute import Compute
from prune_cli.data import ImageFolder
from prune_cli.errors import PruneError
from prune_cli.files import SUMS
from prune_cli.hardware.eager import Eager
from prune_cli.jobs import FAILED, Job, carry_out, failures, note_failure
from prune_cli.models import CifarResNet
from prune_cli.pruners.magnitude import Magnitude
from prune_cli.tracking import Tracking
from prune_cli.training.recipe import Recipe
from tests.test_pipeline import experiment


def job(folder, out="run", rerun=False, **changes):
    return Job(experiment(folder / "outputs", **changes), folder / out, {}, ["prune-run"], rerun)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("jobs")
    carry_out(job(folder))
    return folder


def test_a_finished_experiment_is_found_and_its_files_are_linked(finished, caplog):
    caplog.set_level("INFO")
    carry_out(job(finished, "again"))
    assert "done before" in caplog.text and "training" not in caplog.text
    names = (finished / "run" / SUMS).read_text().split()[1::2]
    for name in [SUMS, *names]:
        assert (finished / "again" / name).samefile(finished / "run" / name)
    prune_cli.load(finished / "again")


def test_outputs_may_be_moved_as_a_whole(finished, tmp_path, caplog):
    shutil.copytree(finished, tmp_path / "moved", symlinks=True)
    moved = job(tmp_path / "moved", "elsewhere")
    assert moved.finished() == (tmp_path / "moved" / "run").resolve()


@pytest.mark.parametrize("damage", ["gone", "flipped", "of another"])
def test_a_result_that_is_no_longer_there_is_made_again(finished, tmp_path, damage):
    shutil.copytree(finished, tmp_path / "copy")
    path = tmp_path / "copy" / "run" / "result.json"
    if damage == "gone":
        shutil.rmtree(path.parent)
    elif damage == "flipped":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        pointer = job(tmp_path / "copy").pointer
        other = job(tmp_path / "copy", seed=1).pointer
        other.parent.mkdir()
        shutil.copy(pointer, other)
        assert job(tmp_path / "copy", seed=1).finished() is None
        return
    assert job(tmp_path / "copy").finished() is None


def test_a_folder_with_another_result_is_not_overwritten(tmp_path):
    first, second = job(tmp_path, export=["torch_export"]), job(tmp_path, seed=1)
    carry_out(first)
    before = (tmp_path / "run" / "result.json").read_bytes()
    carry_out(second)
    beside = tmp_path / f"run-{first.experiment.identity}"
    assert (beside / "result.json").read_bytes() == before and (beside / "model.pt2").exists()
    assert first.finished() == beside.resolve() and second.finished() == (tmp_path / "run").resolve()
    assert not (tmp_path / "run" / "model.pt2").exists()
    prune_cli.load(beside)


def test_rerun_does_it_again(finished, caplog):
    caplog.set_level("INFO")
    carry_out(job(finished, "rerun", rerun=True))
    assert "fine-tuning: epoch 1/1" in caplog.text
    assert not (finished / "rerun" / "result.json").samefile(finished / "run" / "result.json")
    assert job(finished).finished() == (finished / "rerun").resolve()


def test_any_setting_that_changes_the_result_changes_the_identity(tmp_path):
    changes = [
        {}, {"seed": 1}, {"budget": Budget(keep=0.4)}, {"pruner": Magnitude()}, {"finetune": Recipe(epochs=2)},
        {"reestimate": 10}, {"train": Recipe(epochs=3)}, {"model": CifarResNet(depth=14)}, {"export": ["torch_export"]},
        {"hardware": {"cpu": Eager(batches=(3,))}}, {"compute": Compute(threads=2)},
    ]  # fmt: skip
    identities = [experiment(tmp_path, **change).identity for change in changes]
    assert len(set(identities)) == len(changes)


def test_where_things_lie_does_not_change_the_identity(tmp_path):
    assert experiment(tmp_path / "a").identity == experiment(tmp_path / "b").identity
    assert experiment(tmp_path).identity == experiment(tmp_path, tracking=Tracking(tensorboard=False)).identity
    weights = [tmp_path / "1.pth", tmp_path / "2.pth"]
    for path in weights:
        path.write_bytes(b"the same")
    one, two = (experiment(tmp_path, model=CifarResNet(checkpoint=str(path))).identity for path in weights)
    weights[1].write_bytes(b"another")
    assert one == two != experiment(tmp_path, model=CifarResNet(checkpoint=str(weights[1]))).identity


def test_images_are_known_by_their_files_not_by_their_folder(tmp_path):
    def identity(root):
        return experiment(tmp_path, dataset=ImageFolder("images", [0.5] * 3, [0.5] * 3, root=str(root))).identity

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "here" / split / name).mkdir(parents=True)
            (tmp_path / "here" / split / name / "1.png").write_bytes(b"1")
    shutil.copytree(tmp_path / "here", tmp_path / "there")  # keeps the times of files
    assert identity(tmp_path / "here") == identity(tmp_path / "there")
    (tmp_path / "there" / "train" / "a" / "2.png").write_bytes(b"2")
    assert identity(tmp_path / "here") != identity(tmp_path / "there")


def test_identities_do_not_change_between_versions():
    """Finished runs on users' disks have these names: a change here repeats them all, so raise VERSION knowingly."""
    assert experiment(Path("outputs")).identity == "20fa6eac0946"


def test_a_failure_leaves_word_until_the_job_succeeds(finished, tmp_path):
    made = job(finished, "failing")
    note_failure(made, "no luck")
    said = json.loads((made.out / FAILED).read_text())
    assert (said["reason"], said["pruner"], said["seed"]) == ("no luck", "epruner", 0)
    assert failures(finished) == {made.out: "no luck"}
    (made.out / FAILED).write_text("{")
    assert "damaged" in failures(finished)[made.out]
    carry_out(made)
    assert failures(finished) == {}


def test_a_target_that_failed_is_tried_again_without_training(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(Eager, "bound", -1.0)  # no output is good enough
    with pytest.raises(PruneError, match=r"cpu: .*everything else is in"):
        carry_out(job(tmp_path))
    monkeypatch.undo()
    caplog.clear()
    carry_out(job(tmp_path, "second"))
    assert "epoch" not in caplog.text.replace("trained for 2 epochs", "") and "pruned before" in caplog.text
    assert job(tmp_path).finished() == (tmp_path / "second").resolve()
    assert os.listdir(job(tmp_path).shelf) and not (job(tmp_path).shelf / "journal").exists()
