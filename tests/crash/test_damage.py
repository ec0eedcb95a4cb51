"""Journals and pointers that were damaged, or could not be written, cost time and never a result."""

import errno
import logging
import os
import random

import pytest
import torch

from prune_cli import files, interruption
from prune_cli.errors import PruneError
from prune_cli.interruption import Interrupted
from prune_cli.jobs import carry_out
from prune_cli.journal import Journal
from tests.crash.small import facts, left_over, small_job

VALUE = {"moment": {"epoch": 1}, "model": {"w": torch.arange(60.0)}, "list": [torch.ones(2), None, "x"]}


@pytest.fixture
def kept(tmp_path):
    journal = Journal(tmp_path)
    journal.write("training", VALUE)
    (path,) = tmp_path.iterdir()
    return journal, path, path.read_bytes()


def test_what_was_kept_is_read_back_and_memory_may_be_shared(kept):
    journal, _, _ = kept
    read = journal.read("training")
    assert read["moment"] == VALUE["moment"] and torch.equal(read["model"]["w"], VALUE["model"]["w"])
    assert torch.equal(read["list"][0], torch.ones(2)) and read["list"][1:] == [None, "x"]
    base = torch.arange(6.0)
    journal.write("gates", {"twice": [base, base], "part": base[2:], "turned": base.view(2, 3).t()})
    read = journal.read("gates")
    assert all(torch.equal(tensor, base) for tensor in read["twice"])
    assert torch.equal(read["part"], base[2:]) and torch.equal(read["turned"], base.view(2, 3).t())


def test_every_flipped_bit_of_a_journal_is_noticed(kept, caplog):
    journal, path, data = kept
    chosen = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(damaged)
        caplog.clear()
        assert journal.read("training") is None
        assert "damaged: this stage begins anew" in caplog.text


def test_every_truncated_journal_is_noticed(kept):
    journal, path, data = kept
    for size in {0, 1, 64, 65, *random.Random(0).sample(range(len(data)), 200)}:
        path.write_bytes(data[:size])
        assert journal.read("training") is None


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed")
    torch.set_num_threads(1)
    carry_out(small_job(outputs, "run", "csgd"))
    return facts(outputs / "run")


def stop_at(monkeypatch, stage):
    """The run is ended once this stage is kept."""
    write = Journal.write

    def stopping(journal, name, value):
        write(journal, name, value)
        if name == stage:
            raise Interrupted(15)

    monkeypatch.setattr(Journal, "write", stopping)


@pytest.mark.parametrize("stage", ["training", "centripetal", "plan", "fine-tuning"])
def test_a_stage_whose_journal_is_damaged_begins_anew(tmp_path, monkeypatch, caplog, expected, stage):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_at(patch, stage)
        carry_out(small_job(tmp_path, "first", "csgd"))
    (path,) = tmp_path.rglob(f"{stage}.state")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    caplog.set_level(logging.WARNING)
    carry_out(small_job(tmp_path, "second", "csgd"))
    assert "damaged: this stage begins anew" in caplog.text
    assert facts(tmp_path / "second") == expected and left_over(tmp_path) == []


GARBAGE = [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"folder": 3}', b'{"folder": "../.."}', b'{"other": "x"}', b"7"]


def test_a_damaged_pointer_costs_the_run_again_and_no_more(tmp_path, caplog, expected):
    carry_out(small_job(tmp_path, "first", "csgd"))
    (pointer,) = tmp_path.rglob("finished.json")
    good = pointer.read_bytes()
    for garbage in GARBAGE:
        pointer.write_bytes(garbage)
        assert small_job(tmp_path, "second", "csgd").finished() is None
    carry_out(small_job(tmp_path, "second", "csgd"))
    assert facts(tmp_path / "second") == expected
    assert good != pointer.read_bytes() and small_job(tmp_path, "third", "csgd").finished() == tmp_path / "second"


def test_a_damaged_result_is_not_taken_for_one(tmp_path, expected):
    carry_out(small_job(tmp_path, "first", "csgd"))
    result = tmp_path / "first" / "result.json"
    result.write_bytes(result.read_bytes().replace(b"csgd", b"csge", 1))
    carry_out(small_job(tmp_path, "second", "csgd"))
    assert facts(tmp_path / "second") == expected


@pytest.mark.parametrize("number", [1, 3, 5, 7])
def test_a_full_disk_is_one_line_and_costs_nothing_that_was_kept(tmp_path, monkeypatch, expected, number):
    """The disk is full from some file on; when there is room again, the run goes on from what was kept before."""
    sync, synced = os.fsync, 0

    def full(handle):
        nonlocal synced
        synced += 1
        if synced > 4 * number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises((PruneError, OSError), match="No space left") as raised:
            carry_out(small_job(tmp_path, "first", "csgd"))
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    states = {path: path.read_bytes() for path in tmp_path.rglob("*.state")}
    assert all(files.sha256(data[65:]).encode() == data[:64] for data in states.values())
    carry_out(small_job(tmp_path, "second", "csgd"))
    assert facts(tmp_path / "second") == expected and left_over(tmp_path) == []
    assert interruption.asked() is None
