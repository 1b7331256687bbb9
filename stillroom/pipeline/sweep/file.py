"""A sweep file: one run file, its variants and seeds, all checked before anything runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from stillroom.pipeline.run_file.faults import describe, listing, nearest
from stillroom.pipeline.run_file.loading import check_run, override, read_toml, set_key
from stillroom.pipeline.sweep.early import faults_of
from stillroom.pipeline.sweep.search import Draw
from stillroom.pipeline.sweep.sweep_settings import SweepConfig, demand_folders, slug
from stillroom.stages.class_lists import agree, numbered
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from stillroom.pipeline.run_file.sections import RunConfig

# Of all variants: one cache, one test.
SHARED = ("sources", "teachers", "flows", "cache", "evaluate")
OWN = {"train.path": "`path` of the sweep", "train.seed": "`seeds` of the sweep"}
RECORD = "sweep.json"


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
        variants: those of the file at every point of its search, with the keys that they change
        teachers, students: the trials, in this order; students seed by seed
        unscored: teachers of other classes than the labels that students are scored on
        document: the run file with what is set for all variants, as it was read
        rounds: names of the variants that a controller drew, round by round, as often as it did
    """

    file: Path
    config: SweepConfig
    overrides: tuple[str, ...]
    run: RunConfig
    run_text: str
    variants: Mapping[str, Mapping[str, Any]]
    teachers: tuple[Trial, ...]
    students: tuple[Trial, ...]
    unscored: tuple[str, ...] = ()
    document: Mapping[str, Any] = field(default_factory=dict)
    rounds: tuple[tuple[str, ...], ...] = ()

    @property
    def baseline(self) -> str | None:
        """The variant that others are compared with; a point of a search only if it is named."""
        return self.config.baseline or (None if self.config.search else next(iter(self.variants)))

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
    variants = config.trained
    faults = [*_wrong_baseline(config, variants), *_wrong_keys(config)]
    faults += [f"set.{fault}" for fault in _changed(document, config.set)]
    override(document, overrides)
    named = {each.partition("=")[0] for each in overrides}
    faults += [f"--set {key}: {OWN[key]} says it" for key in OWN if key in named]
    run, wrong = check_run(document)
    faults += [f"{config.run}: {fault}" for fault in wrong]
    if run is not None and run.evaluate is None:
        faults.append(f"{config.run}: evaluate: required here, with a labelled source to score on")
    students, more = _students(config, document, variants, set(wrong))
    faults += more
    if config.controller is not None and not faults:
        faults += _faults_of_choices(config, document, students)
    if config.asha is not None:
        faults += faults_of(config.asha, [trial.run for trial in students])
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
    return Sweep(
        path, config, tuple(overrides), run, run_text, variants, teachers, tuple(students),
        unscored, document,
    )  # fmt: skip


def with_variants(sweep: Sweep, variants: Mapping[str, Mapping[str, Any]]) -> Sweep:
    """Return a sweep with these variants as well, checked as those of its file.

    Raises:
        ConfigError: a variant cannot be trained, or would share the folders of another.
    """
    new = {name: changes for name, changes in variants.items() if name not in sweep.variants}
    demand_folders([*sweep.variants, *new])
    students, faults = _students(sweep.config, sweep.document, new, set())
    if faults:
        raise ConfigError(f"{sweep.file}: {listing(faults)}")
    return replace(sweep, variants={**sweep.variants, **new}, students=(*sweep.students, *students))


def _faults_of_choices(
    config: SweepConfig, document: Mapping[str, Any], students: Sequence[Trial]
) -> list[str]:
    """Return what is wrong with choices of which a controller may draw any in hours to come."""
    if any(trial.run.train is None or trial.run.train.validation is None for trial in students):
        return ["controller: learns from validations: give the run [train].validation"]
    lists = {key: one.choices for key, one in config.space.items() if isinstance(one, Draw)}
    each = [
        {key: choices[number % len(choices)] for key, choices in lists.items()}
        for number in range(max(map(len, lists.values())))
    ]
    return _students(config, document, config.at(each), set())[1]


def _can_be_scored(name: str, run: RunConfig) -> bool:
    """Whether a teacher has the classes that students are scored on."""
    labels = None if run.evaluate is None else run.classes_of(run.evaluate.source)
    teacher = run.teacher(name).mapped()
    return labels is None or agree(numbered(teacher.class_names() or teacher.num_classes()), labels)


def _config(path: Path, seeds: Sequence[int]) -> SweepConfig:
    given = read_toml(path, "sweep file")
    if "run" not in given and {"sources", "cache"} <= given.keys():
        raise ConfigError(
            f"{path}: this is a run file; give a sweep file, which names it (run = "
            f'"{path}") and its variants: docs/sweeps.md'
        )
    try:
        config = SweepConfig.model_validate(given)
        more = [seed for seed in seeds if seed not in config.seeds]
        if more and config.controller is not None:
            raise ConfigError(
                f"{path}: --seeds {more[0]}: a controller learns from the means over the seeds of "
                "the file: write it there"
            )
        return SweepConfig.model_validate({**given, "seeds": [*config.seeds, *more]})
    except ValidationError as error:
        raise ConfigError(f"{path}: {listing(describe(error, SweepConfig))}") from error


def _students(
    config: SweepConfig, document: Mapping[str, Any], variants: Mapping[str, Any], known: set[str]
) -> tuple[list[Trial], list[str]]:
    """Return the students of all variants, and their faults but those that are known."""
    section = "variants" if config.variants else "search"
    students: list[Trial] = []
    faults: list[str] = []
    for name, changes in variants.items():
        found, more = _variant(config, document, name, changes)
        faults += [f"{section}.{name!r}.{fault}" for fault in more if fault not in known]
        known = known | set(more) if config.search else known  # else each point would repeat it
        students += found
    return students, faults


def _variant(
    config: SweepConfig, document: Mapping[str, Any], name: str, changes: Mapping[str, Any]
) -> tuple[list[Trial], list[str]]:
    """Return a variant's students, one a seed, and its faults."""
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


def _wrong_keys(config: SweepConfig) -> Iterator[str]:
    """Yield a fault for each key that is changed where it may not be."""
    yield from _forbidden("set", config.set, ())
    yield from _forbidden("search", config.search, SHARED)
    for name, changes in config.variants.items():
        yield from _forbidden(f"variants.{name!r}", changes, SHARED)
        for key in changes.keys() & config.search.keys():
            yield f"variants.{name!r}.{key}: `search` says it"


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


def _wrong_baseline(config: SweepConfig, variants: Mapping[str, Any]) -> Iterator[str]:
    if config.baseline is not None and config.baseline not in variants:
        known = list(variants)
        yield f"baseline: no variant {config.baseline!r}{nearest(config.baseline, known)}"
