"""The keys of a sweep file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator, model_validator

from stillroom.pipeline.sweep.search import Draw, dimension, point_name, points
from stillroom.stages.settings import Settings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from stillroom.pipeline.sweep.search import Dimension

Seed = Annotated[int, Field(ge=0, lt=2**63)]
LONGEST_FOLDER = 230  # bytes; file systems take 255, and seed and suffix follow


class AshaConfig(Settings):
    """Early stopping of students that score low where others were at the same step.

    Attributes:
        grace: steps before which none is stopped; those between two validations if left out
        reduction_factor: one in so many goes on from each rung, whose steps grow by it
    """

    grace: int | None = Field(default=None, gt=0)
    reduction_factor: float = Field(default=4.0, gt=1, allow_inf_nan=False)


class ControllerConfig(Settings):
    """A search by an LSTM that learns from the scores of what it drew before.

    Attributes:
        round: draws that it makes before it learns from them
    """

    round: int = Field(default=8, gt=1)


class SweepConfig(Settings):
    """A whole sweep file.

    Attributes:
        run: the run file that variants change
        path: folder of the students' run folders, and of the table
        seeds: each variant is trained with each of them
        parallel: students trained at a time, each in a process of its own; left out, as many as
            the shares below leave room for on this machine, one where none is given, and as many
            as Ray has room for
        threads: torch threads of each
        gpus_per_student: the share of a GPU that each student takes
        cpus_per_student: what each takes of a machine's CPUs; `threads` if left out, on Ray
        retries: of a student that fails, but for what only its user can mend
        baseline: the variant that others are compared with; the first one if left out, none where
            there is a search
        set: keys of the run file, changed for all variants
        variants: by name, the keys of the run file that they change, dotted as in --set
        search: keys of the run file, and the choices or the range of each; every variant is
            trained at every point of it
        samples: draws from ranges and lists, for each combination of choices
        search_seed: of the draws
        controller: draws by what scored well before; `samples` are the draws of all its rounds
        asha: stops students early, on Ray
    """

    run: Path
    path: Path
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    parallel: int | None = Field(default=None, gt=0)
    threads: int = Field(default=1, gt=0)
    gpus_per_student: float | None = Field(default=None, ge=0, le=1)
    cpus_per_student: int | None = Field(default=None, gt=0)
    retries: int = Field(default=1, ge=0)
    baseline: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    search: dict[str, list[Any]] = Field(default_factory=dict)
    samples: int = Field(default=1, gt=0)
    search_seed: int = 0
    controller: ControllerConfig | None = None
    asha: AshaConfig | None = None

    @field_validator("run", "path")
    @classmethod
    def _home(cls, path: Path) -> Path:
        try:
            return path.expanduser()
        except RuntimeError as error:
            raise ConfigError(f"it begins with ~: {error}") from error

    @field_validator("seeds")
    @classmethod
    def _each_seed_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ConfigError("a seed is named twice")
        return seeds

    @field_validator("search")
    @classmethod
    def _can_be_searched(cls, search: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for key, values in search.items():
            try:
                dimension(values)
            except ConfigError as error:
                raise ConfigError(f"{key}: {error}") from error
        return search

    @model_validator(mode="after")
    def _there_are_trials(self) -> SweepConfig:
        if not self.variants and not self.search:
            raise ConfigError("variants or search: required; there is nothing to train")
        if self.samples > 1 and all(
            isinstance(dimension(values), tuple) for values in self.search.values()
        ):
            raise ConfigError(
                f"samples = {self.samples}, and `search` has nothing to draw from, as in "
                "[0.5, 5.0, 'log'] or [4, 8, 16, 'drawn']"
            )
        if self.controller is not None:
            _demand_rounds(self, self.controller)
        demand_folders(self.trained)
        return self

    @property
    def space(self) -> dict[str, Dimension]:
        """What the keys of the search are searched over."""
        return {key: dimension(values) for key, values in self.search.items()}

    @property
    def trained(self) -> dict[str, dict[str, Any]]:
        """Every variant at every point of the search, by name: the keys that are changed.

        With a controller, those of its first round, in which all choices are as likely.
        """
        samples = self.samples if self.controller is None else self.controller.round
        return self.at(points(self.space, samples, self.search_seed))

    def at(self, found_points: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return every variant at these points, by name: the keys that are changed."""
        variants, space = self.variants or {"": {}}, self.space
        found = {}
        for point in found_points:
            for name, changes in variants.items():
                full = ", ".join(filter(None, (name, point_name(point, space))))
                found[full] = {**changes, **point}
        return found


def slug(name: str) -> str:
    """Turn the name of a variant into that of a folder."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    found = "-".join(part for part in kept.split("-") if part)
    if len(found.encode()) <= LONGEST_FOLDER:
        return found
    return f"{found[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _demand_rounds(config: SweepConfig, controller: ControllerConfig) -> None:
    """Refuse a search that a controller cannot make, or learns nothing in."""
    if config.variants:
        raise ConfigError("controller: searches for one run: leave out `variants`, use `set`")
    for key, one in config.space.items():
        if not isinstance(one, Draw):
            raise ConfigError(
                f"search.{key}: a controller chooses from lists that end with 'drawn', and from "
                "no range or grid; list values, as in [0.5, 1.0, 2.0, 'drawn']"
            )
    if config.samples <= controller.round:
        raise ConfigError(
            f"samples = {config.samples}: a controller learns after each {controller.round} draws "
            "(controller.round), and there would be none after them; give more samples"
        )


def demand_folders(names: Iterable[str]) -> None:
    """Refuse names of which two would share their folders, or one would have none."""
    named: dict[str, str] = {}
    for name in names:
        folder = slug(name)
        if not folder:
            raise ConfigError(f"{name!r} has no letter and no digit to name a folder by")
        if folder in named:
            raise ConfigError(
                f"{named[folder]!r} and {name!r} would share the folders {folder}-seed*"
            )
        named[folder] = name
