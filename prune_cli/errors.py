"""The errors that a person at the terminal can mend; everything else is a bug and keeps its traceback."""

import re


class PruneError(Exception):
    """One line: what was asked, what was found, what to change."""


class DivergedError(PruneError):
    """Training met a loss that is not finite."""


def require(condition: object, message: str) -> None:
    """Raise `PruneError(message)` unless the condition holds."""
    if not condition:
        raise PruneError(message)


def require_range(
    name: str, value: object, low: float, high: float, *, open_low: bool = False, whole: bool = False
) -> None:
    """Refuse anything that is not a finite number in [low, high] (`open_low`: in (low, high]).

    NaN fails every comparison and infinities fail `high`, so both are refused without a case of their own.
    """
    kinds = (int,) if whole else (int, float)
    number = value if isinstance(value, kinds) and not isinstance(value, bool) else None
    inside = number is not None and (low < number if open_low else low <= number) and number <= high
    bracket = "(" if open_low else "["
    kind = "whole number" if whole else "number"
    require(inside, f"{name} must be a {kind} in {bracket}{low:g}, {high:g}]: got {value!r}")


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the choices."""
    require(value in choices, f"{name} must be one of {', '.join(choices)}: got {value!r}")


def require_name(name: str, value: object) -> None:
    """Refuse what could not safely be a part of a path or of a table."""
    good = isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]{0,79}", value)
    require(
        good, f"{name} must be letters, digits and any of _ . = + -, at most 80, not starting with a dot: got {value!r}"
    )
