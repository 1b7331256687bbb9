from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillroom.stages.train.run_folder import alone, claim, read_json, write_whole
from stillroom.storage_specs.errors import CacheMismatch, CacheUnwritable, ConfigError

CONFIG = {"train": {"optimiser": {"lr": 0.1}, "steps": 5, "threads": 2}, "terms": [{"weight": 1}]}
PRINTS = {"camvid/frames": "a" * 64}


def begin(folder, config=CONFIG, fingerprints=PRINTS):
    """A run that has saved its first checkpoint."""
    claim(folder, config, fingerprints)
    (folder / "last.pt").touch()


def test_the_same_run_may_come_again(tmp_path):
    claim(tmp_path / "run", CONFIG, PRINTS)
    claim(tmp_path / "run", CONFIG, PRINTS)
    assert read_json(tmp_path / "run" / "config.json") == CONFIG
    assert read_json(tmp_path / "run" / "fingerprints.json") == PRINTS
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "fingerprints.json"]


def test_another_config_is_refused_naming_each_field_and_both_values(tmp_path):
    begin(tmp_path)
    other = {
        "train": {"optimiser": {"lr": 0.2}, "steps": 5, "threads": 2},
        "terms": [{"weight": 3}],
    }
    with pytest.raises(ConfigError) as caught:
        claim(tmp_path, other, PRINTS)
    message = str(caught.value)
    assert "train.optimiser.lr   folder 0.1   run 0.2" in message
    assert "terms[0].weight   folder 1   run 3" in message
    assert "steps" not in message
    assert "train.path" in message
    assert read_json(tmp_path / "config.json") == CONFIG


def test_fields_that_change_no_loss_may_differ(tmp_path):
    begin(tmp_path)
    changed = {**CONFIG, "train": {**CONFIG["train"], "threads": 8}}
    claim(tmp_path, changed, PRINTS, ("train.threads",))
    claim(tmp_path, {**CONFIG, "terms": []}, PRINTS, ("train", "terms"))
    with pytest.raises(ConfigError, match=r"train\.threads"):
        claim(tmp_path, changed, PRINTS, ("train.thread",))


@pytest.mark.parametrize("left", ["last.pt", "best.pt", "model.safetensors", "result.json"])
def test_a_run_that_saved_nothing_keeps_nobody_out(tmp_path, left):
    claim(tmp_path, {"train": {"lr": 1e12}}, PRINTS)
    claim(tmp_path, CONFIG, {"camvid/frames": "b" * 64})
    assert read_json(tmp_path / "config.json") == CONFIG
    assert read_json(tmp_path / "fingerprints.json") == {"camvid/frames": "b" * 64}
    (tmp_path / left).touch()
    with pytest.raises(ConfigError, match="another config"):
        claim(tmp_path, {"train": {"lr": 1e12}}, PRINTS)


def test_a_key_that_is_younger_than_the_run_and_not_set_is_no_change(tmp_path):
    begin(tmp_path)
    claim(tmp_path, {**CONFIG, "terms": [{"weight": 1, "younger": None}]}, PRINTS)
    with pytest.raises(ConfigError, match="younger"):
        claim(tmp_path, {**CONFIG, "terms": [{"weight": 1, "younger": 2}]}, PRINTS)


def test_another_cache_is_refused(tmp_path):
    begin(tmp_path)
    with pytest.raises(CacheMismatch, match="camvid/frames"):
        claim(tmp_path, CONFIG, {"camvid/frames": "b" * 64})


def test_a_config_that_is_no_json_is_refused_by_name(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json.*cannot be read"):
        claim(tmp_path, CONFIG, PRINTS)


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner, name):
    write_whole(tmp_path / "last.pt", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(CacheUnwritable, match=r"No space left.*run the same command again"):
        write_whole(tmp_path / "last.pt", b"new")
    assert os.listdir(tmp_path) == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == b"old"


def test_a_folder_that_cannot_be_made_is_an_explained_error(tmp_path):
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises((CacheUnwritable, ConfigError), match="run"):
        claim(tmp_path / "run", CONFIG, PRINTS)
    with pytest.raises(CacheUnwritable, match="cannot be written"), alone(tmp_path / "run"):
        pass


def test_two_processes_do_not_train_in_one_folder_and_a_killed_one_lets_go(tmp_path):
    ready, hold = tmp_path / "ready", "import sys, time, pathlib\n"
    hold += "from stillroom.stages.train.run_folder import alone\n"
    hold += f"with alone(pathlib.Path({str(tmp_path)!r})):\n"
    hold += f"    pathlib.Path({str(ready)!r}).touch()\n    time.sleep(60)\n"
    other = subprocess.Popen([sys.executable, "-c", hold])
    try:
        while not ready.exists():
            assert other.poll() is None
            time.sleep(0.05)
        with pytest.raises(ConfigError, match="another process is training there"), alone(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with alone(tmp_path):
        pass
    with alone(tmp_path):  # and lets go itself
        pass
