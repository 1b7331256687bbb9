"""A sweep file: one run file, its variants and seeds, all checked before anything runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, field_validator

from stillroom.pipeline.run_file.faults import describe, listing, nearest
from stillroom.pipeline.run_file.loading import check_run, override, read_toml, set_key
from stillroom.stages.class_lists import agree, numbered
from stillroom.stages.settings import Settings
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from stillroom.pipeline.run_file.sections import RunConfig

Seed = Annotated[int, Field(ge=0, lt=2**63)]
# Of all variants: one cache, one test.
SHARED = ("sources", "teachers", "flows", "cache", "evaluate")
OWN = {"train.path": "`path` of the sweep", "train.seed": "`seeds` of the sweep"}
RECORD = "sweep.json"


class SweepConfig(Settings):
    """A whole sweep file.

    Attributes:
        run: the run file that variants change
        path: folder of the students' run folders, and of the table
        seeds: each variant is trained with each of them
        parallel: students trained at a time, each in a process of its own
        threads: torch threads of each
        baseline: the variant that others are compared with; the first one if left out
        set: keys of the run file, changed for all variants
        variants: by name, the keys of the run file that they change, dotted as in --set
    """

    run: Path
    path: Path
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    parallel: int = Field(default=1, gt=0)
    threads: int = Field(default=1, gt=0)
    baseline: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = Field(min_length=1)

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

    @field_validator("variants")
    @classmethod
    def _each_has_a_folder(cls, variants: dict[str, Any]) -> dict[str, Any]:
        named: dict[str, str] = {}
        for name in variants:
            folder = slug(name)
            if not folder:
                raise ConfigError(f"{name!r} has no letter and no digit to name a folder by")
            if folder in named:
                raise ConfigError(
                    f"{named[folder]!r} and {name!r} would share the folders {folder}-seed*"
                )
            named[folder] = name
        return variants


@dataclass(frozen=True, eq=False)
class Trial:
    """One student to be trained and scored, or one teacher to be scored.

    Attributes:
        row: the variant, or "teacher:NAME"
        seed: None for a teacher
        overrides: the variant's
        document: the run file with everything that is changed in it
        run: the same, checked
        record: the file that its result is kept in
    """

    row: str
    seed: int | None
    overrides: Mapping[str, Any]
    document: Mapping[str, Any]
    run: RunConfig
    record: Path

    @property
    def name(self) -> str:
        """Its row and seed, as messages name it."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def teacher(self) -> str | None:
        """The teacher's name; None for a student."""
        return self.row.removeprefix("teacher:") if self.seed is None else None

    @property
    def place(self) -> Path:
        """The run folder of a student, the record of a teacher."""
        return self.record if self.seed is None else self.record.parent


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep file, read and found sound.

    Attributes:
        file: where it was read from
        overrides: what the command line sets for all variants, as KEY=VALUE
        run: the run file with what is set for all variants: the cache that all of them read
        run_text: the run file as it was written
        teachers, students: the trials, in this order; students seed by seed
        unscored: teachers of other classes than the labels that students are scored on
    """

    file: Path
    config: SweepConfig
    overrides: tuple[str, ...]
    run: RunConfig
    run_text: str
    teachers: tuple[Trial, ...]
    students: tuple[Trial, ...]
    unscored: tuple[str, ...] = ()

    @property
    def baseline(self) -> str:
        """The variant that others are compared with."""
        return self.config.baseline or next(iter(self.config.variants))

    @property
    def has_video(self) -> bool:
        """Whether students are scored along clips as well."""
        return self.run.evaluate is not None and self.run.evaluate.video is not None


def load_sweep(path: Path, overrides: Sequence[str] = (), seeds: Sequence[int] = ()) -> Sweep:
    """Read a sweep file and its run file, and check every variant.

    Args:
        overrides: of the run file, for all variants, as --set
        seeds: beside the file's

    Raises:
        ConfigError: a file is missing or not TOML, or any number of faults, all of them listed.
    """
    config = _config(path, seeds)
    document = read_toml(config.run, "run file")
    run_text = config.run.read_text(encoding="utf8")
    faults = [*_wrong_baseline(config), *_forbidden("set", config.set, ())]
    faults += [f"set.{fault}" for fault in _changed(document, config.set)]
    override(document, overrides)
    named = {each.partition("=")[0] for each in overrides}
    faults += [f"--set {key}: {OWN[key]} says it" for key in OWN if key in named]
    run, wrong = check_run(document)
    faults += [f"{config.run}: {fault}" for fault in wrong]
    if run is not None and run.evaluate is None:
        faults.append(f"{config.run}: evaluate: required here, with a labelled source to score on")
    students: list[Trial] = []
    for name, changes in config.variants.items():
        found, more = _variant(config, document, name)
        faults += _forbidden(f"variants.{name!r}", changes, SHARED)
        faults += [f"variants.{name!r}.{fault}" for fault in more if fault not in wrong]
        students += found
    if faults or run is None:
        raise ConfigError(f"{path}: {listing(faults)}")
    order = {seed: place for place, seed in enumerate(config.seeds)}
    students.sort(key=lambda trial: order.get(trial.seed or 0, 0))
    scored = [name for name in run.teachers if _can_be_scored(name, run)]
    teachers = tuple(
        Trial(f"teacher:{name}", None, {}, document, run, config.path / f"teacher-{name}.json")
        for name in scored
    )
    unscored = tuple(name for name in run.teachers if name not in scored)
    return Sweep(path, config, tuple(overrides), run, run_text, teachers, tuple(students), unscored)


def _can_be_scored(name: str, run: RunConfig) -> bool:
    """Whether a teacher has the classes that students are scored on."""
    labels = None if run.evaluate is None else run.classes_of(run.evaluate.source)
    teacher = run.teacher(name).mapped()
    return labels is None or agree(numbered(teacher.class_names() or teacher.num_classes()), labels)


def _config(path: Path, seeds: Sequence[int]) -> SweepConfig:
    given = read_toml(path, "sweep file")
    try:
        config = SweepConfig.model_validate(given)
        more = [seed for seed in seeds if seed not in config.seeds]
        return SweepConfig.model_validate({**given, "seeds": [*config.seeds, *more]})
    except ValidationError as error:
        raise ConfigError(f"{path}: {listing(describe(error, SweepConfig))}") from error


def slug(name: str) -> str:
    """Turn the name of a variant into that of a folder."""
    kept = "".join(letter if letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in kept.split("-") if part)


def _variant(
    config: SweepConfig, document: Mapping[str, Any], name: str
) -> tuple[list[Trial], list[str]]:
    """Return a variant's students, one a seed, and its faults."""
    changes = config.variants[name]
    mine = copy.deepcopy(dict(document))
    faults = _changed(mine, changes)
    found = []
    for seed in config.seeds:
        folder = config.path / f"{slug(name)}-seed{seed}"
        one = copy.deepcopy(mine)
        if not isinstance(one.setdefault("train", {}), dict):
            return [], faults or ["train: expected a section"]
        one["train"] |= {"path": str(folder), "seed": seed}
        run, wrong = check_run(one)
        if run is None:
            return [], faults + wrong
        lacking = [section for section in ("student", "terms") if not getattr(run, section)]
        if lacking:
            return [], [*faults, *(f"{each}: required to train a student" for each in lacking)]
        found.append(Trial(name, seed, changes, one, run, folder / RECORD))
    return found, faults


def _changed(document: dict[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Apply the changes; return a fault for each that cannot be applied."""
    faults = []
    for key, value in changes.items():
        try:
            set_key(document, key, copy.deepcopy(value), key)
        except ConfigError as error:
            faults.append(str(error))
    return faults


def _forbidden(place: str, changes: Mapping[str, Any], shared: Sequence[str]) -> Iterator[str]:
    """Yield a fault for each key that may not be changed here."""
    for key in changes:
        section = key.partition(".")[0]
        if key in OWN:
            yield f"{place}.{key}: {OWN[key]} says it"
        elif key == "train":
            yield (
                f"{place}.train: this would replace the whole section; put the dotted key in "
                'quotes, as in "train.steps" = 100'
            )
        elif section in shared:
            yield f"{place}.{key}: all variants share this; change it in `set` or the run file"


def _wrong_baseline(config: SweepConfig) -> Iterator[str]:
    if config.baseline is not None and config.baseline not in config.variants:
        known = list(config.variants)
        yield f"baseline: no variant {config.baseline!r}{nearest(config.baseline, known)}"
