"""Files are whole or absent, and every change to them is noticed."""

import os
import random

import pytest

from prune_cli import files
from prune_cli.errors import PruneError


@pytest.fixture
def sealed(tmp_path):
    files.seal(tmp_path / "run", {"weights": bytes(range(256)) * 8, "result.json": files.to_json({"a": 1})})
    return tmp_path / "run"


def test_what_was_sealed_is_read_back(sealed):
    assert files.read_sealed(sealed, "weights") == bytes(range(256)) * 8
    assert os.system(f"cd {sealed} && sha256sum --quiet -c SHA256SUMS") == 0


@pytest.mark.parametrize("name", ["weights", "result.json"])
def test_every_flipped_bit_is_noticed(sealed, name):
    data = bytearray((sealed / name).read_bytes())
    chosen = random.Random(0)
    for _ in range(100):
        position, bit = chosen.randrange(len(data)), 1 << chosen.randrange(8)
        data[position] ^= bit
        (sealed / name).write_bytes(data)
        with pytest.raises(PruneError, match="damaged"):
            files.read_sealed(sealed, name)
        data[position] ^= bit


@pytest.mark.parametrize("damage", ["cut", "empty", "absent", "no sums", "garbled sums"])
def test_other_damage_is_noticed(sealed, damage):
    path, sums = sealed / "weights", sealed / files.SUMS
    {
        "cut": lambda: path.write_bytes(path.read_bytes()[:100]),
        "empty": lambda: path.write_bytes(b""),
        "absent": path.unlink,
        "no sums": sums.unlink,
        "garbled sums": lambda: sums.write_bytes(b"\xff\xfe  weights\n"),
    }[damage]()
    with pytest.raises(PruneError, match=r"damaged|cannot be read"):
        files.read_sealed(sealed, "weights")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PruneError, match=r"cannot write .*\(3 bytes\): No space left"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_the_marker_of_a_complete_folder_is_written_last(tmp_path, monkeypatch):
    files.seal(tmp_path, {"weights": b"1", "done": b"1"})
    written = []
    real = files.write_bytes
    monkeypatch.setattr(files, "write_bytes", lambda path, data: (written.append(path.name), real(path, data))[1])

    def broken(path, data):
        raise PruneError("power cut")

    files.seal(tmp_path, {"weights": b"2", "done": b"2"})
    assert written == ["weights", files.SUMS, "done"]
    monkeypatch.setattr(files, "write_bytes", broken)
    with pytest.raises(PruneError):
        files.seal(tmp_path, {"weights": b"3", "done": b"3"})
    assert not (tmp_path / "done").exists()


def test_syncs_before_it_renames(tmp_path, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("sync"), sync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b))[1])
    files.write_bytes(tmp_path / "file", b"data")
    assert calls == ["sync", "rename", "sync"]


def test_json_is_strict():
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.to_json({"loss": float("nan")})


@pytest.mark.parametrize("text", ["../../x", "/etc/passwd", "a\0b", "", "x" * 300, "~", "..", "é"])
def test_slugs_stay_in_their_folder(tmp_path, text):
    path = (tmp_path / files.slug(text)).resolve()
    assert path.parent == tmp_path.resolve() and len(path.name) <= 60


def test_files_are_added_and_replaced_without_a_moment_of_doubt(sealed, monkeypatch):
    """Stopped before any of its writes, what can be read is the old or the new, and asking again completes it."""
    changes = {"result.json": files.to_json({"a": 2}), "more": b"new"}
    old, write, left = files.read_sealed(sealed, "result.json"), files.write_bytes, 0

    def stop(path, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        write(path, data)

    for count in range(4):
        left = count
        monkeypatch.setattr(files, "write_bytes", stop)
        with pytest.raises(KeyboardInterrupt):
            files.amend(sealed, changes)
        assert files.read_sealed(sealed, "result.json") in (old, changes["result.json"])
        assert files.read_sealed(sealed, "weights") == bytes(range(256)) * 8
    monkeypatch.setattr(files, "write_bytes", write)
    files.amend(sealed, changes)
    assert {name: files.read_sealed(sealed, name) for name in changes} == changes
    lines = (sealed / files.SUMS).read_text().splitlines()
    assert len(lines) == 3 and os.system(f"cd {sealed} && sha256sum --quiet -c SHA256SUMS") == 0
