"""Files that are whole or absent, and whose every flipped bit is noticed.

A file is written under a temporary name, synced and renamed. A folder is *sealed* by `SHA256SUMS`, which
`sha256sum -c` understands too; reading from a sealed folder verifies first, because neither `torch.load`
nor safetensors notices changed tensor data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from prune_cli import team
from prune_cli.errors import PruneError, require
from prune_cli.interruption import undisturbed

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
SUMS = "SHA256SUMS"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def slug(text: str) -> str:
    """A name that is safe as one component of a path, whatever the text holds."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:60] or "unnamed"


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once: readers see the old file or the new one, never a part."""
    # Not by the process's number: on a shared folder two machines may have the same.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with undisturbed():
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except OSError as error:
            raise PruneError(f"cannot write {path} ({len(data)} bytes): {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; for who knows that nobody else writes there now."""
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock that lies in a file; the kernel frees it when its holder dies. In a team, the first member holds it.

    Args:
        holder: what another process that has it does, said if we have to wait.
    """
    if not team.is_first():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting: %s", holder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut (where the platform can)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def to_json(value: Any) -> bytes:
    """Strict JSON (no NaN), stable order of keys as given, ends with a newline."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def seal(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write the files and their sums; the last of `contents` appears last and so marks the folder as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    *first, (last, final) = contents.items()
    (folder / last).unlink(missing_ok=True)
    for name, data in first:
        write_bytes(folder / name, data)
    write_bytes(folder / SUMS, _lines(f"{sha256(data)}  {name}" for name, data in contents.items()))
    write_bytes(folder / last, final)


def amend(folder: Path, changes: Mapping[str, bytes]) -> None:
    """Add files to a sealed folder, or replace some. At any moment every file has one of the sums on record."""
    with FileLock(folder / ".lock"):
        before = (folder / SUMS).read_text().splitlines()
        added = [f"{sha256(data)}  {name}" for name, data in changes.items()]
        staying = [line for line in before if line.split("  ", 1)[-1] not in changes]
        write_bytes(folder / SUMS, _lines(dict.fromkeys([*before, *added])))
        for name, data in changes.items():
            write_bytes(folder / name, data)
        write_bytes(folder / SUMS, _lines([*staying, *added]))


def _lines(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def read_sealed(folder: Path, name: str) -> bytes:
    """The bytes of one file of a sealed folder, verified.

    Raises:
        PruneError: the file or its sum is missing, or the contents are not those that were written.
    """
    try:
        sums = (folder / SUMS).read_text()
        data = (folder / name).read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise PruneError(f"{folder / name} cannot be read: {error}") from error
    require(
        f"{sha256(data)}  {name}" in sums.splitlines(),
        f"{folder / name} is damaged: its sha256 is not the one recorded in {SUMS}; "
        f"remove {folder} to make it again, or restore it",
    )
    return data
