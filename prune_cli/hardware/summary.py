"""From samples to figures: what counts, how the ratio is formed, and how sure one can be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from prune_cli.hardware.race import CLEAN, Lap
from prune_cli.record import Latency

Array = np.ndarray[Any, Any]
ENOUGH = 2  # clean rounds, without which a process's disturbed ones are used too


def summarise(batch: int, own: Sequence[Lap], dense: Sequence[Lap], threads: int) -> Latency:
    """One network against its dense one, each with a lap per process. A network is not compared with itself."""
    pairs = [_pair(a, b, threads) for a, b in zip(own, dense, strict=True)]
    times = np.concatenate([wall for wall, _ in pairs])
    p10, median, p90 = (round(float(v), 4) for v in np.percentile(times, [10, 50, 90]))
    disturbed = float(np.mean(np.concatenate([lap.waited for lap in own]) > CLEAN))
    ratios = [np.ones(2)] if own is dense else [wall / other for wall, other in pairs]
    low, high = interval(ratios)
    verdict = "faster" if high < 1 else "slower" if low > 1 else "no significant difference"
    return Latency(
        batch=batch, median_ms=median, p10_ms=p10, p90_ms=p90,
        cpu_ms=round(float(np.median(np.concatenate([lap.cpu for lap in own]))), 4),
        rounds=len(times), processes=len(own), disturbed=round(disturbed, 4),
        ratio=round(centre(ratios), 4), ratio_low=round(low, 4), ratio_high=round(high, 4),
        verdict="" if own is dense else verdict,
    )  # fmt: skip


def _pair(own: Lap, dense: Lap, threads: int) -> tuple[Array, Array]:
    """Milliseconds of the rounds of one process that count: (R) of the network, (R) of the dense one."""
    clean = (own.waited <= CLEAN) & (dense.waited <= CLEAN)
    if clean.sum() >= min(ENOUGH, len(clean)):
        return own.wall[clean], dense.wall[clean]
    if threads == 1:  # what a single thread waited for can be taken off
        return _worked(own), _worked(dense)
    return own.wall, dense.wall


def _worked(lap: Lap) -> Array:
    """Milliseconds without the waiting; the kernel's figure may be a little late and exceed the time itself."""
    return lap.wall * (1 - np.minimum(lap.waited, 0.99))


def centre(ratios: Sequence[Array]) -> float:
    """The mean over processes of their medians.

    Where a process's weights come to lie can change a ratio by a fifth: no state is the true one.
    """
    return float(np.mean([np.median(values) for values in ratios]))


def interval(ratios: Sequence[Array], draws: int = 2000) -> tuple[float, float]:
    """95% interval of `centre`, by a bootstrap that draws processes, then rounds within each.

    Percentiles of a bootstrap over few processes are too narrow. Its standard error, times Student's t for that many
    and the factor by which a bootstrap of few falls short, is not (Hesterberg, arXiv 1411.5279, section 5).
    """
    from scipy.stats import t

    random = np.random.default_rng(0)
    medians = np.stack([np.median(random.choice(values, (draws, len(values))), axis=1) for values in ratios])  # (P, D)
    chosen = random.integers(len(ratios), size=medians.shape)
    means = np.take_along_axis(medians, chosen, axis=0).mean(axis=0)
    count = len(ratios) if len(ratios) > 1 else len(ratios[0])
    if count < 2:
        return 0.0, math.inf
    half = float(t.ppf(0.975, count - 1)) * math.sqrt(count / (count - 1)) * float(means.std())
    return max(0.0, centre(ratios) - half), centre(ratios) + half
