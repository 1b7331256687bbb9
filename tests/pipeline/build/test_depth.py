"""A teacher of depth, without classes, as docs/your_data.md has it: by every cache command."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stillroom.cli import main
from stillroom.pipeline.open_model import open_model
from stillroom.pipeline.run_file.loading import load_run
from stillroom.stages.pictures.palette import heat
from stillroom.stages.train.dataset import CacheDataset
from stillroom.stages.view import ViewConfig
from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.store import Cache

PAGE = Path(__file__).resolve().parents[3] / "docs" / "your_data.md"
SIZES = [(128, 96), (60, 90), (200, 120), (128, 96)]  # width, height; two of them leave padding


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run file and the network of the page, and photos whose left is dark and far away."""
    text = PAGE.read_text()
    (run_file,) = re.findall(r"`depth.toml`:\n\n```toml\n(.*?)```", text, re.DOTALL)
    (network,) = re.findall(r"`town_depth.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "depth.toml").write_text(run_file)
    (tmp_path / "town_depth.py").write_text(network)
    (tmp_path / "town" / "photos").mkdir(parents=True)
    for number, (width, height) in enumerate(SIZES):
        ramp = np.linspace(0, 255, width).astype(np.uint8)
        photo = np.broadcast_to(ramp[None, :, None], (height, width, 3))
        Image.fromarray(np.ascontiguousarray(photo)).save(
            tmp_path / "town" / "photos" / f"{number}.png"
        )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "town_depth", raising=False)
    return tmp_path


def said(command: str) -> Any:
    done = CliRunner().invoke(main, ["cache", *command.split()])
    assert done.exit_code == 0, f"{command}: {done.output}{done.exception!r}"
    return json.loads(done.stdout) if "--json" in command else done.stdout


def live(image: np.ndarray) -> np.ndarray:
    """What the network of the page gives, in float64: (h, w)."""
    normalised = (image.astype(np.float64) - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    dark = -normalised[::4, ::4].mean(-1)
    return np.where(dark < 1.5, 8 * (1 + 1 / (1 + np.exp(-dark))), 0)


def test_every_cache_command_takes_a_teacher_without_classes(folder: Path) -> None:
    said("build depth.toml")
    cache = Cache.open(folder / "runs" / "town.cache")
    stored, frames = (cache.artifact_set("photos", name) for name in ("metres", "frames"))
    assert list(stored.arrays) == ["depth"]
    assert stored.arrays["depth"].shape == (24, 32)
    assert stored.arrays["depth"].attributes == {"stride": 4}
    rows = stored.rows().to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert [row["confidence"] for row in rows] == [None] * 4
    holes = 0
    for row in rows:
        expected = live(frames.read("frames", row["index"]))
        shown = np.zeros((24, 32), bool)
        shown[: -(-(row["valid_height"] - 2) // 4), : -(-(row["valid_width"] - 2) // 4)] = True
        found = stored.read("depth", row["index"])
        np.testing.assert_allclose(found, np.where(shown, expected, 0), rtol=7.1e-5)
        holes += int((found[shown] == 0).sum())
    assert 0 < holes < 600
    assert said("verify runs/town.cache --json")["faults"] == []
    for one in said("info runs/town.cache --json")["sets"]:
        if one["set_name"] == "metres":
            assert one["arrays"] == {"depth": ["24x32", "log"]}
            assert one["mean_confidence"] is None
            assert 0 < one["fidelity"]["depth"]["largest_relative_error"] <= 7.04e-5


def test_statistics_fidelity_pictures_and_another_tier(folder: Path) -> None:
    said("build depth.toml")
    (one,) = said("stats depth.toml --json")["sets"]
    assert 8 < one["ranges"]["depth"]["least"] < one["ranges"]["depth"]["mean"]
    assert one["ranges"]["depth"]["greatest"] < 16
    assert 0.5 < one["ranges"]["depth"]["present"] < 1
    assert re.search(r"depth: 8\.\d+ to 1\d\.\d+, mean .* have a value", said("stats depth.toml"))
    done = CliRunner().invoke(main, ["cache", "stats", "depth.toml", "--plot", "stats.png"])
    assert "charts show classes and confidence, and runs/town.cache has neither" in done.output
    (one,) = said("fidelity depth.toml --codecs --json")["sets"]
    (depth,) = one["artifacts"]
    assert 0 < depth["relative_error"] <= 7.04e-5
    assert depth["of_bound"] <= 1
    assert depth["kl"] is None
    assert re.search(r"depth log: within [67]\S*e-05 of each value", said("fidelity depth.toml"))
    others = {other["codec"]: other["relative_error"] for other in one["other_codecs"]}
    assert others["exact"] == 0
    assert 0 < others["half"] <= 2**-11
    said("preview depth.toml --out preview.png")
    colours = np.unique(np.asarray(Image.open("preview.png").convert("RGB")).reshape(-1, 3), axis=0)
    warm = {tuple(colour) for colour in heat()[150:].tolist()}
    assert len(warm & {tuple(colour) for colour in colours.tolist()}) > 50
    said("transcode runs/town.cache exact.cache --preset exact")
    old, new = (Cache.open(place).artifact_set("photos", "metres")
                for place in ("runs/town.cache", "exact.cache"))  # fmt: skip
    assert new.arrays["depth"].codec.name == "exact"
    for index in range(4):
        np.testing.assert_array_equal(old.read("depth", index), new.read("depth", index))


@pytest.mark.parametrize("tile", ['"none"', "[8, 8]"])
def test_a_dataset_serves_depth_on_the_view_of_the_frame(folder: Path, tile: str) -> None:
    said(f"build depth.toml --set cache.tile={tile.replace(' ', '')}")
    cache = Cache.open(folder / "runs" / "town.cache")
    dataset = CacheDataset(
        "photos",
        cache.artifact_set("photos", "frames"),
        {"metres": cache.artifact_set("photos", "metres")},
        needs=frozenset({"metres/depth"}),
        view=ViewConfig(crop=(64, 64), scale=(0.7, 1.4), flip=True),
        labelled=False,
        out_stride=4,
    )
    seen = 0
    for epoch in range(4):
        for place in range(len(dataset)):
            sample = dataset.sample(epoch, place)
            depth, mask = sample.artifacts["metres/depth"], sample.mask
            assert depth.shape == mask.shape == (1, 16, 16)
            # The photo is bright at the right and the network near there: depth follows the frame.
            image = sample.image.mean(0)[2::4, 2::4]
            known = mask[0] & (depth[0] > 0)
            dark = -(image - 114.5) / 57.63
            shown = dataset.shown(epoch, place)[0].view
            expected = 8 * (1 + torch.sigmoid(dark)) * shown.height / shown.out_height
            assert (depth[0] - expected)[known].abs().max() < 0.4
            seen += int(known.sum())
            assert (depth[0][~mask[0]] == 0).float().mean() > 0.6 or mask.all()
    assert seen > 1000


def test_what_a_codec_cannot_hold_makes_a_bad_frame_and_scores_need_logits(folder: Path) -> None:
    module = folder / "town_depth.py"
    module.write_text(module.read_text().replace("metres.where(dark < 1.5, 0)", "metres * 200"))
    done = CliRunner().invoke(main, ["cache", "build", "depth.toml"])
    assert done.exit_code == 2
    assert "out of range (codec log holds 0.1 to 1000, and 0 for no value; got" in done.output
    far = 'cache.codecs={depth={codec={name="log",high=1e5}}}'
    done = CliRunner().invoke(
        main, ["cache", "build", "depth.toml", "--set", far, "--set", "cache.path=far.cache"]
    )
    assert done.exit_code == 0, done.output
    model = open_model(load_run(folder / "depth.toml"), "teacher:metres")
    frames = np.zeros((1, 96, 128, 3), np.uint8)
    depth, stride = model.predictor(frames)
    assert (tuple(depth.shape), stride) == ((1, 1, 24, 32), 4)
    with pytest.raises(ConfigError, match="without logits cannot be scored on it; it gives depth"):
        replace(model.predictor, output="logits")(frames)


@pytest.mark.parametrize("artifacts", [["logits"], ["depth", "confidence"], ["features/deep"]])
def test_what_a_teacher_of_depth_does_not_give_is_named(folder: Path, artifacts: list[str]) -> None:
    run = ["build", "depth.toml", "--set", f"cache.artifacts={json.dumps(artifacts)}"]
    done = CliRunner().invoke(main, ["cache", *run])
    assert done.exit_code == 2
    assert "teachers.metres.classes: not given" in done.output or "known: depth" in done.output
    done = CliRunner().invoke(main, ["cache", *run, "--set", "teachers.metres.classes=3"])
    assert "this teacher has no such output; known: depth" in done.output
