"""What happens in a measuring process: networks take turns, and every sample knows how undisturbed it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prune_cli.hardware import Call, Hardware, example
from prune_cli.hardware.process import Parcel
from prune_cli.host import busy_seconds

if TYPE_CHECKING:
    from torch import Tensor

    from prune_cli.hardware import Artefact

Array = np.ndarray[Any, Any]
SAMPLE_SECONDS = 0.005  # a sample of a fast network is several calls, so that the clock's own time does not count
CLEAN = 0.02  # a sample is disturbed if it waited for a processor for a larger part than this
PATIENCE = 4  # a process goes on for so many times its share of the seconds while clean rounds are wanting


@dataclass(frozen=True)
class Lap:
    """One network at one batch size in one process."""

    wall: Array  # (R) milliseconds of a call
    cpu: Array  # (R) milliseconds of processor time, of all threads
    waited: Array  # (R) part of the sample in which the process waited for a processor
    outputs: Tensor  # for `example(batch, shape)`


@dataclass(frozen=True)
class Heat:
    """All networks at one batch size in one process."""

    laps: Mapping[str, Lap]
    other_load: float  # processors that others kept busy meanwhile


def run(target: Hardware, parcels: Mapping[str, Parcel | Path], shape: tuple[int, ...]) -> dict[int, Heat]:
    """Time all networks at all batch sizes; the work of one measuring process."""
    import torch

    torch.set_num_threads(target.threads)
    artefacts = {name: unpack(parcel) for name, parcel in parcels.items()}
    with torch.inference_mode():
        return {batch: _heat(target, artefacts, example(batch, shape)) for batch in target.batches}


def unpack(parcel: Parcel | Path) -> Artefact:
    return parcel.open() if isinstance(parcel, Parcel) else parcel


def _heat(target: Hardware, artefacts: Mapping[str, Artefact], images: Tensor) -> Heat:
    calls = {name: target.load(artefact, len(images)) for name, artefact in artefacts.items()}
    x = target.place(images)
    outputs = {name: target.outputs(call(x)) for name, call in calls.items()}
    for call in calls.values():
        for _ in range(target.warmup - 2):  # the call for the outputs and the one for `repeats` warm up too
            call(x)
    repeats = {n: max(1, round(SAMPLE_SECONDS / target.seconds_of(call, x, 1))) for n, call in calls.items()}
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
    rounds, seconds = -(-target.rounds // target.processes), target.seconds / target.processes
    clean = 0
    order = list(calls)
    before, own, start = busy_seconds(), time.process_time(), time.perf_counter()
    while True:
        for name in order:
            samples[name].append(_sample(target, calls[name], x, repeats[name]))
        order.reverse()  # so that none always follows the same one
        clean += all(taken[-1][2] <= CLEAN for taken in samples.values())
        elapsed = time.perf_counter() - start
        if len(samples[order[0]]) >= rounds and elapsed >= seconds and (
            clean >= rounds or elapsed >= PATIENCE * max(seconds, elapsed / len(samples[order[0]]) * rounds)
        ):  # fmt: skip
            break
    others = (busy_seconds() - before - (time.process_time() - own)) / elapsed
    laps = {}
    for name, taken in samples.items():
        wall, cpu, waited = np.array(taken).T
        laps[name] = Lap(wall, cpu, waited, outputs[name])
    return Heat(laps, max(0.0, others))


def _sample(target: Hardware, call: Call, x: Any, repeats: int) -> tuple[float, float, float]:
    """Wall and processor milliseconds of a call, and the part of the time for which the kernel made us wait."""
    before, cpu, start = _waited(), time.process_time(), time.perf_counter()
    wall = target.seconds_of(call, x, repeats)
    elapsed = time.perf_counter() - start
    longest = max((waited - before.get(thread, 0.0) for thread, waited in _waited().items()), default=0.0)
    return 1000 * wall, 1000 * (time.process_time() - cpu) / repeats, min(1.0, longest / elapsed)


def _waited() -> dict[str, float]:
    """Seconds for which each thread of this process was ready to run and had no processor; {} where it is not known."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            found[path.parent.name] = int(path.read_text().split()[1]) * 1e-9
        except OSError:  # the thread has ended
            continue
    return found
