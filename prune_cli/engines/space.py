"""What may be chosen in a search: ordinary overrides, of which some name many values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune_cli.errors import require


@dataclass(frozen=True)
class Values:
    """Some values, as they are written in an override."""

    texts: tuple[str, ...]
    ordered: bool  # neighbours are alike (a range), or each is a case of its own (a choice)


@dataclass(frozen=True)
class Interval:
    """Any number from `low` to `high`, both included."""

    low: float
    high: float
    log: bool  # as many below the geometric middle as above
    whole: bool

    def text(self, value: float) -> str:
        """The number as it is written in an override: four digits, which is finer than any training can tell."""
        return str(round(value)) if self.whole else f"{min(max(float(f'{value:.4g}'), self.low), self.high):g}"


Knob = Values | Interval


@dataclass(frozen=True)
class Space:
    """The overrides of a search in their order; those of knobs are filled in trial by trial."""

    fixed: Mapping[str, str]  # whole overrides, by key
    knobs: Mapping[str, Knob]
    order: tuple[str, ...]  # all keys

    def job(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The overrides of one job, given the text of a value for each knob."""
        return tuple(f"{key}={values[key]}" if key in self.knobs else self.fixed[key] for key in self.order)

    def corners(self) -> Iterator[tuple[str, ...]]:
        """Jobs that show every single value and both ends of every interval, the others as they come first."""
        shown = {key: _shown(knob) for key, knob in self.knobs.items()}
        first = {key: texts[0] for key, texts in shown.items()}
        yield self.job(first)
        for key, texts in shown.items():
            yield from (self.job({**first, key: text}) for text in texts[1:])


def _shown(knob: Knob) -> Sequence[str]:
    return knob.texts if isinstance(knob, Values) else [knob.text(knob.low), knob.text(knob.high)]


def space_of(overrides: Sequence[Any]) -> Space:
    """Sort Hydra's parsed overrides into knobs and what stays; of two with one key the later counts.

    Raises:
        PruneError: a knob that cannot be searched, or none at all.
    """
    fixed: dict[str, str] = {}
    knobs: dict[str, Knob] = {}
    for override in overrides:
        key = override.get_key_element()
        fixed.pop(key, None)
        knobs.pop(key, None)
        if override.is_sweep_override():
            knobs[key] = _knob(key, override)
        else:
            fixed[key] = str(override.input_line)
    require(knobs, "a search needs something to choose, such as 'finetune.lr=interval(0.003,0.1)'")
    order = dict.fromkeys(override.get_key_element() for override in overrides)
    return Space(fixed, knobs, tuple(order))


def _knob(key: str, override: Any) -> Knob:
    sweep = override.value()
    if override.is_interval_sweep():
        low, high, log = sweep.start, sweep.end, "log" in sweep.tags
        require(low < high, f"{key}: an interval goes from a smaller number to a larger one, not from {low} to {high}")
        require(low > 0 or not log, f"{key}: an interval with tag(log) starts above 0, not at {low}")
        return Interval(low, high, log, whole=isinstance(low, int) and isinstance(high, int))
    require(not getattr(sweep, "shuffle", False), f"{key}: a search draws by its own seed, so leave out shuffle()")
    texts = tuple(dict.fromkeys(override.sweep_string_iterator()))
    require(texts, f"{key} names no value")
    return Values(texts, ordered=override.is_range_sweep())
