"""What users import: `stillroom.open_cache`, `stillroom.dataset`, `stillroom.load_student`."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

import stillroom
from stillroom.pipeline.build.run import build
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.training import train_run
from stillroom.stages.geometry import apply_artifact
from stillroom.storage_specs.artifacts import LABELS, TARGETS
from stillroom.storage_specs.errors import CacheIncomplete, ConfigError
from stillroom.storage_specs.extras import EXTRAS

if TYPE_CHECKING:
    from collections.abc import Iterable

REPOSITORY = Path(__file__).resolve().parent.parent
VIEW = {"crop": [16, 24], "scale": [0.75, 1.5], "flip": True}


@pytest.fixture
def built(run_file: Path) -> Path:
    build(load_run(run_file))
    return run_file


def test_what_is_public_is_listed_and_typed() -> None:
    assert set(stillroom.__all__) == {"__version__", "dataset", "load_student", "open_cache"}
    page = (REPOSITORY / "docs" / "python.md").read_text()
    documented = set(re.findall(r"^\| `stillroom\.(\w+)\(", page, re.MULTILINE))
    assert documented == set(stillroom.__all__) - {"__version__"}
    items = re.findall(r"^\| `(\w+)` \| \(", page, re.MULTILINE)
    assert set(items) == {"image", "label", "mask"} | set(TARGETS) - {LABELS}
    assert (REPOSITORY / "stillroom" / "py.typed").exists()
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"]
    assert str(cited) == stillroom.__version__
    assert stillroom.__version__ == importlib.metadata.version("stillroom")


def test_a_whole_canvas_is_what_the_cache_holds(built: Path) -> None:
    cache = stillroom.open_cache("street.cache")
    teacher, frames = cache.artifact_set("street", "tiny"), cache.artifact_set("street", "frames")
    found = stillroom.dataset(cache, "street", ["tiny/logits", "tiny/pseudo_label"])
    assert len(found) == frames.count == 10
    assert found.classes == tuple(frames.arrays["labels"].attributes["classes"])
    for place in (0, 7):
        item = found[place]
        assert item["frame_id"] == found.frame_ids[place]
        image = frames.read("frames", place).transpose(2, 0, 1)
        np.testing.assert_array_equal(item["image"], image)
        np.testing.assert_array_equal(item["label"], frames.read("labels", place))
        np.testing.assert_array_equal(item["tiny/logits"], teacher.read("logits", place))
        np.testing.assert_array_equal(
            item["tiny/pseudo_label"], teacher.read("pseudo_label", place)
        )
        assert item["mask"].shape == (1, 32, 48)
        assert item["mask@4"].shape == (1, 8, 12)
        assert item["mask"].all()


def test_views_move_frame_label_and_artifacts_together(built: Path) -> None:
    found = stillroom.dataset("street.cache", "street", "tiny/logits", view=VIEW, stride=8)
    item = found[3]
    assert item["image"].shape == (3, 16, 24)
    assert item["label"].shape == (16, 24)
    assert item["tiny/logits"].shape == (9, 2, 3)
    first = [found[i]["image"] for i in range(4)]
    assert all(torch.equal(found[i]["image"], first[i]) for i in range(4))
    found.set_epoch(1)
    assert not any(torch.equal(found[i]["image"], first[i]) for i in range(4))


def test_a_frame_view_of_the_cache_agrees_with_the_view_that_training_draws(built: Path) -> None:
    from stillroom.stages.seeds import generator
    from stillroom.stages.view import ViewConfig, sample_view

    found = stillroom.dataset("street.cache", "street", "tiny/logits", view=VIEW, seed=4)
    rng = generator(4, "street", 0, found.frame_ids[2], "view")
    view = sample_view(ViewConfig(crop=(16, 24), scale=(0.75, 1.5), flip=True), (32, 48), rng)
    teacher = stillroom.open_cache("street.cache").artifact_set("street", "tiny")
    logits = torch.from_numpy(teacher.read("logits", 2).copy())
    row = teacher.arrays["logits"].kind
    assert torch.equal(found[2]["tiny/logits"], apply_artifact(view, logits, row, (4, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_of_a_loader_see_the_same_frames_and_follow_the_epoch(
    built: Path, start: str
) -> None:
    found = stillroom.dataset("street.cache", "street", "tiny/logits", view=VIEW)
    loader = DataLoader(
        found, 4, num_workers=2, persistent_workers=True, multiprocessing_context=start
    )
    for epoch in (0, 5):
        found.set_epoch(epoch)
        batches = list(loader)
        assert [name for batch in batches for name in batch["frame_id"]] == found.frame_ids
        images = torch.cat([batch["image"] for batch in batches])
        assert torch.equal(images, torch.stack([found[i]["image"] for i in range(10)]))


def test_a_trained_student_is_a_module(built: Path) -> None:
    train_run(load_run(built))
    student = stillroom.load_student("run")
    assert not student.training
    found = student(torch.full((2, 3, 30, 50), 90.0))
    assert found.logits.shape == (2, 9, 8, 13)
    assert torch.equal(
        stillroom.load_student("run/last.pt").network.body.weight, student.network.body.weight
    )
    (built.parent / "run/student.onnx").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match=r"student\.onnx: no such run folder or checkpoint; give"):
        stillroom.load_student("run/student.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("street", "tiny/depth"), r"no artifact 'tiny/depth' .*it holds tiny/logits"),
        (("nowhere", ()), r"no set 'frames' on 'nowhere' \(there are: "),
    ],
)
def test_what_is_not_there_is_named(
    built: Path, arguments: tuple[str, Iterable[str]], message: str
) -> None:
    with pytest.raises((ConfigError, CacheIncomplete), match=message):
        stillroom.dataset("street.cache", *arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": {"crops": [16, 24]}}, r"view: crops: .*did you mean 'crop'\?"),
        ({"jitter": {"contrast": 2.0}}, r"jitter: contrast: .*less than 1"),
        ({"stride": 0}, "stride: expected 1 or more, got 0"),
        ({"labels": True}, "has no labels in the cache"),
    ],
)
def test_settings_that_are_wrong_are_refused(
    built: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        stillroom.dataset("street.cache", "more", **settings)  # type: ignore[arg-type]


def test_a_frame_that_is_not_there_ends_an_iteration(built: Path) -> None:
    found = stillroom.dataset("street.cache", "more")
    assert "label" not in found[0]
    assert found.classes is None
    assert len(list(found)) == 6
    assert found[-1]["frame_id"] == found.frame_ids[5]
    for place in (6, -7):
        with pytest.raises(IndexError, match=f"frame {place} of 6"):
            found[place]


# What an installed package is imported by, where its name does not say.
IMPORTED_BY = {"pillow": "PIL", "opencv-python-headless": "cv2"}


def test_extras_name_what_the_project_declares() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    found = {}
    for extra in ("train", "ray", "hf", "onnx", "prune"):
        for requirement in declared["optional-dependencies"][extra]:
            name = re.match(r"[\w-]+", requirement)
            assert name is not None
            if name[0] != "stillroom":
                found[IMPORTED_BY.get(name[0], name[0].replace("-", "_"))] = extra
    assert found == EXTRAS


def run_without(missing: set[str], code: list[str], folder: Path) -> str:
    """Run Python in an environment of the same packages but those."""
    site = folder / "site"
    site.mkdir()
    for path in Path(np.__file__).parent.parent.iterdir():
        if path.suffix != ".pth" and path.name.split("-")[0].split(".")[0] not in missing:
            (site / path.name).symlink_to(path)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True
    )
    libraries = next((folder / "venv").glob("lib*/python*/site-packages"))
    (libraries / "packages.pth").write_text(f"{site}\n{REPOSITORY}\n{folder}\n")
    python = folder / "venv" / "bin" / "python"
    done = subprocess.run(
        [str(python), *code], cwd=folder, capture_output=True, text=True, env={"PATH": ""}
    )
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_script_of_the_readme_runs_without_ray_and_opencv(built: Path, tmp_path: Path) -> None:
    train_run(load_run(built))
    found = re.search(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert found is not None
    script = found[1]
    assert sum(bool(line) for line in script.splitlines()) <= 10
    for name, here in {
        "runs/camvid.cache": "street.cache",
        '"camvid"': '"street"',
        "runs/camvid": "run",
        "fpn/": "tiny/",
        "[160, 224]": "[16, 24]",
    }.items():
        assert name in script
        script = script.replace(name, here)
    script += "import importlib.util\nprint(loss.item() > 0, len(frames))\n"
    script += "print([importlib.util.find_spec(name) for name in ('ray', 'cv2')])\n"
    (tmp_path / "script.py").write_text(script)
    told = run_without({"ray", "cv2"}, ["script.py"], tmp_path)
    assert told.splitlines() == ["True 10", "[None, None]"]


@pytest.mark.slow
def test_a_cache_is_read_without_torch_and_commands_say_what_is_missing(
    built: Path, tmp_path: Path
) -> None:
    bare = set(EXTRAS) - {"PIL"}
    code = "import sys; from stillroom.cli import main; import stillroom\n"
    code += "print(stillroom.open_cache('street.cache').artifact_set('street', 'tiny')"
    code += ".read('logits', 3).shape)\n"
    code += "for words in (['cache', 'info', 'street.cache'], ['cache', 'verify', 'street.cache'],"
    code += " ['train', 'run.toml']):\n"
    code += "    try:\n        main(words)\n    except SystemExit as end:\n"
    code += "        print('exit', end.code, flush=True)\n"
    told = run_without(bare, ["-c", code], tmp_path)
    assert "(9, 8, 12)" in told
    assert told.count("exit 0") == 2
    assert "street/tiny" in told
    assert "error: this needs the package torch, which is not installed; run `pip install" in told
    assert "exit 2" in told
