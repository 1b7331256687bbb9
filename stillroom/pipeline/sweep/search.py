"""Search over keys of the run file: a grid of choices, times random draws from ranges and lists.

The trials are a function of the sweep file alone: a draw depends on the seed, the key and the
number of the trial, so that a second call has the same trials, and more `samples` only add some.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Scale = Literal["uniform", "log", "int"]
SCALES = ("uniform", "log", "int")
DRAWN = "drawn"  # ends a list of choices of which each trial takes one, and not each in turn
DIGITS = 4  # significant, of a drawn number: its name, its folder and its run file say all of it


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included, as likely on a linear or logarithmic scale."""

    low: float
    high: float
    scale: Scale

    def at(self, share: float) -> float | int:
        """Return the number below which `share` of the range lies, 0 <= share < 1."""
        if self.scale == "int":
            return int(self.low) + int(share * (int(self.high) - int(self.low) + 1))
        if self.scale == "log":
            exact = self.low * (self.high / self.low) ** share
        else:
            exact = self.low + share * (self.high - self.low)
        return min(max(float(f"{exact:.{DIGITS}g}"), self.low), self.high)


@dataclass(frozen=True)
class Draw:
    """Choices, each as likely as another."""

    choices: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """Return the choice below which `share` of them lies, 0 <= share < 1."""
        return self.choices[int(share * len(self.choices))]


Dimension = Range | Draw | tuple[Any, ...]


def dimension(values: Sequence[Any]) -> Dimension:
    """Read what a key is searched over: [LOW, HIGH, "uniform", "log" or "int"], or choices.

    Choices that end with "drawn" are drawn from; others are a grid.

    Raises:
        ConfigError: no choice, one that is named twice, or a range that is none.
    """
    if len(values) == 3 and isinstance(values[2], str) and values[2] in SCALES:
        return _range(values[0], values[1], values[2])  # type: ignore[arg-type]
    drawn = bool(values) and values[-1] == DRAWN
    values = values[:-1] if drawn else values
    if not values:
        raise ConfigError("expected choices, or a range as in [0.5, 5.0, 'log']; got neither")
    if any(one == other for one, other in itertools.combinations(values, 2)):
        raise ConfigError(f"{list(values)} names a choice twice")
    return Draw(tuple(values)) if drawn else tuple(values)


def _range(low: Any, high: Any, scale: Scale) -> Range:
    given = f"[{low!r}, {high!r}, {scale!r}]"
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ConfigError(f"{given}: a range is between two finite numbers")
    if low >= high:
        raise ConfigError(f"{given} is empty: a range goes from a number to a higher one")
    if scale == "log" and low <= 0:
        raise ConfigError(f"{given}: a logarithmic range begins above 0")
    if scale == "int" and not (isinstance(low, int) and isinstance(high, int)):
        raise ConfigError(f"{given}: a range of whole numbers is between two of them")
    return Range(low, high, scale)


def points(search: Mapping[str, Dimension], samples: int, seed: int) -> list[dict[str, Any]]:
    """Return every combination of the choices, `samples` times, each with draws of its own."""
    grid = {key: one for key, one in search.items() if isinstance(one, tuple)}
    combinations = [
        dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())
    ]
    return [
        {
            key: chosen[key] if isinstance(one, tuple) else one.at(share(seed, key, number))
            for key, one in search.items()
        }
        for number, chosen in enumerate(combinations * samples)
    ]


def share(seed: int, key: str, number: int) -> float:
    """Return where in its range or list trial `number` draws a key, 0 <= share < 1."""
    # Python promises the same numbers in every version for a text as a seed; NumPy does not.
    return random.Random(f"{seed} {number} {key}").random()


def point_name(point: Mapping[str, Any], search: Mapping[str, Dimension]) -> str:
    """Return a point as a name: "terms.1.weight=2.5"; what is no scalar by its position."""
    return ", ".join(f"{key}={_said(value, search[key])}" for key, value in point.items())


def _said(value: Any, of: Dimension) -> str:
    choices = of.choices if isinstance(of, Draw) else of
    if isinstance(value, dict | list) and isinstance(choices, tuple):
        return f"#{choices.index(value)}"
    return str(value)
