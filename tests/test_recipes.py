"""The recipes: each loads, is planned on a fake tree of its data, and is sized as its page says."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from data_set_trees import FRAMES, TREES, plant
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.run_file.loading import load_run, read_toml
from stillroom.pipeline.run_file.writing import as_toml
from stillroom.pipeline.sweep.file import load_sweep
from stillroom.stages.train.objective import Objective

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stillroom.pipeline.run_file.sections import RunConfig

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = REPOSITORY / "recipes"
SWEEPS = sorted(RECIPES.rglob("*_sweep.toml"))
RUNS = sorted(set(RECIPES.rglob("*.toml")) - set(SWEEPS))
SMALL = (64, 96)  # the canvas here: the papers' would take minutes a frame
# As published; of Cityscapes' snippets 7 frames each, of COCO and of streets as many as are drawn.
PUBLISHED = {
    ("cityscapes", "train"): 2975,
    ("voc", "trainaug"): 10582,
    ("pascal_context", "train"): 4998,
    ("pascal_context_60", "train"): 4998,
    ("ade20k", "train"): 20210,
    ("camvid", "train"): 367,
    ("cityscapes_sequence", "train"): 2975 * 7,
}


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES))


@pytest.fixture(autouse=True)
def called_from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Mapping[Path, Path]:
    """A folder for each run file, whose tables share a cache: the teacher takes long."""
    return defaultdict(lambda: tmp_path_factory.mktemp("tree"))


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_recipe_states_the_frames_that_its_data_set_has(path: Path) -> None:
    run = load_run(path)
    assert {name: stated_frames(path)[name] for name in run.cached_sources()} == {
        name: published(run.sources[name].model_dump()) for name in run.cached_sources()
    }


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_the_page_has_a_row_with_these_frames(path: Path) -> None:
    run, stated = load_run(path), stated_frames(path)
    rows = re.findall(
        rf"^\| \[`{name_of(path)}`\]\({name_of(path)}\) \| (\d+) \|",
        (RECIPES / "README.md").read_text(),
        re.MULTILINE,
    )
    assert [int(each) for each in rows] == [sum(stated[name] for name in run.cached_sources())]


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_recipe_is_the_run_of_a_table(path: Path) -> None:
    assert name_of(path) in {read_toml(each, "")["run"].removeprefix("recipes/") for each in SWEEPS}


@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_every_row_of_a_table_has_the_papers_number_beside_it(path: Path) -> None:
    noted = re.findall(r'^"([^"]+)" = .*# paper: \d\d\.\d', path.read_text(), re.MULTILINE)
    assert noted == list(read_toml(path, "")["variants"])
    assert f"{path.parent.name}/{path.name}" in (RECIPES / "README.md").read_text()


@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_a_table_is_planned_on_a_tree_of_its_data(path: Path, tmp_path: Path) -> None:
    sweep = read_toml(path, "")
    run = load_run(Path(sweep["run"]))
    overrides = stand_ins(run, tmp_path)
    planned = command("sweep", path, "--dry-run", "--json", *overrides)
    students = [one for one in planned["runs"] if one["seed"] is not None]
    assert [(one["name"], one["seed"]) for one in students] == [
        (variant, seed) for seed in sweep["seeds"] for variant in sweep["variants"]
    ]
    assert {one["state"] for one in students} == {"new"}
    assert planned["missing_shards"] > 0
    assert not (tmp_path / "a.cache").exists()


@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_every_term_of_a_table_reads_what_its_run_caches(path: Path) -> None:
    for run in students_of(path):
        (teacher,) = run.teachers
        held = {f"{teacher}/{artifact}" for artifact in run.cache.artifacts}
        held |= {f"{name}/code/{of.layer}" for name, of in run.adapt.items()}
        objective, active = Objective(run.terms), set[str]()
        for labelled, clips in kinds_of(run):
            assert objective.artifacts(labelled, clips=clips) <= held
            active |= set(objective.active(labelled, clips=clips))
        assert active == set(objective.labels)


@pytest.mark.slow
@pytest.mark.parametrize("path", SWEEPS, ids=name_of)
def test_the_last_row_of_a_table_takes_a_step_on_a_tree_of_its_data(
    path: Path, tmp_path: Path, trees: Mapping[Path, Path]
) -> None:
    """With the recipe's own networks, untrained: layers are there, and the loss is finite."""
    of = Path(read_toml(path, "")["run"])
    run = load_run(of)
    trial = load_sweep(path, tuple(stand_ins(run, trees[of]))[1::2]).students[-1]
    file = tmp_path / "run.toml"
    file.write_text(as_toml(shortened(trial.document, tmp_path)))
    command("cache", "build", file, "--json")
    if run.adapt:
        command("cache", "adapt", file, "--json")
    command("train", file, "--json")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (step,) = (line for line in lines if "loss" in line)
    assert np.isfinite(step["loss"])
    assert {key.split("/")[1] for key in step["terms"]} == {term.name for term in trial.run.terms}


@pytest.mark.slow
@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_a_cache_is_sized_on_a_tree_of_its_data(path: Path, tmp_path: Path) -> None:
    """With the recipe's own networks, untrained."""
    run = load_run(path)
    sized = command("cache", "build", path, "--dry-run", "--json", *stand_ins(run, tmp_path))
    (teacher,) = run.teachers
    sets = {(one["source"], one["set"]): one for one in sized["sets"]}
    for source in run.cached_sources():
        assert sets[source, teacher]["missing_frames"] == sets[source, "frames"]["missing_frames"]
        assert set(sets[source, teacher]["bytes"]) >= set(run.cache.artifacts)
        assert all(count > 0 for count in sets[source, teacher]["bytes"].values())
    assert not (tmp_path / "a.cache").exists()


def stated_frames(path: Path) -> dict[str, int]:
    found = re.findall(r"^\[sources\.(\w+)\] .*?(\d+) frames", path.read_text(), re.MULTILINE)
    return {name: int(count) for name, count in found}


def students_of(path: Path) -> list[RunConfig]:
    """The run of each variant, with the first seed."""
    sweep = load_sweep(path)
    return [trial.run for trial in sweep.students if trial.seed == sweep.config.seeds[0]]


def kinds_of(run: RunConfig) -> list[tuple[bool, bool]]:
    """Of each stream: whether it is labelled, and whether it is of triplets."""
    assert run.train is not None
    return [
        (stream.labelled is not False and name == "train", stream.triplets is not None)
        for name, stream in run.train.streams.items()
    ]


def shortened(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A trial of one step on two small crops of each stream, from random weights."""
    short = copy.deepcopy(dict(document))
    for section in (short["student"], short["student"]["options"]):
        section.pop("encoder_weights", None)
    short["train"] |= {"path": str(folder / "run"), "steps": 1}
    short["train"]["view"]["crop"] = [64, 160]  # two places of `multi_frame`, 16 cells a side
    short["train"].pop("milestones", None)
    short["train"]["schedule"] = "constant"
    for stream in short["train"]["streams"].values():
        stream["batch"] = 2
    return short


def published(source: dict[str, Any]) -> int:
    return source.get("take") or PUBLISHED[source["kind"], source["split"]]


def command(*words: object) -> Any:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def stand_ins(run: RunConfig, folder: Path) -> Iterator[str]:
    """Yield --set of data that is planted, and of the recipe's teachers without weights."""
    for name, source in run.sources.items():
        yield from set_key(f"sources.{name}.root", tree(source.kind, folder))
        if getattr(source, "take", None):
            yield from set_key(f"sources.{name}.take", 2)
    for name in run.teachers:
        given = run.teacher(name).model_dump(exclude_none=True, exclude_defaults=True, mode="json")
        section = {key: value for key, value in given.items() if key not in ("weights", "classes")}
        yield from set_key(f"teachers.{name}", section)
    for name in run.flows:
        yield from set_key(f"flows.{name}", {"kind": "dis"})
    yield from set_key("cache.path", folder / "a.cache")
    yield from set_key("cache.canvas", list(SMALL))


def set_key(key: str, value: object) -> tuple[str, str]:
    return "--set", f"{key}={in_toml(value)}"


def in_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {in_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(str(value) if isinstance(value, Path) else value)


def tree(kind: str, folder: Path) -> Path:
    """Plant a data set's tree, once."""
    root = folder / kind
    if root.exists():
        return root
    if kind in TREES:
        plant(kind, root)
    elif kind == "camvid":
        for name in FRAMES["train"]:
            for split in ("train", "test"):
                picture(root / split / f"{name}.png", 3)
                picture(root / f"{split}annot" / f"{name}.png")
    elif kind == "cityscapes_sequence":
        plant("cityscapes", root)
        snippets(root)
    else:
        for name in FRAMES["train"]:
            picture(root / f"{name}.jpg", 3)
    if kind == "voc":  # labels of the augmented split, and its list
        shutil.copytree(root / "SegmentationClass", root / "SegmentationClassAug")
        lists = root / "ImageSets" / "Segmentation"
        shutil.copy(lists / "train.txt", lists / "trainaug.txt")
    return root


def snippets(root: Path) -> None:
    """The nine frames around each labelled one of Cityscapes' tree."""
    for still in list(root.glob("leftImg8bit/*/*/*.png")):
        clip, _, frame = still.name.removesuffix("_leftImg8bit.png").rpartition("_")
        place = root / "leftImg8bit_sequence" / still.parent.relative_to(root / "leftImg8bit")
        for time in range(int(frame) - 4, int(frame) + 5):
            picture(place / f"{clip}_{time:0{len(frame)}d}_leftImg8bit.png", 3)


def picture(path: Path, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 11, (*SMALL, channels), np.uint8)
    Image.fromarray(noise if channels == 3 else noise[..., 0]).save(path)
