from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from stillroom.cli import main
from stillroom.pipeline.demo import Steps, run_demo
from stillroom.pipeline.run_file.loading import load_run

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig


class Stopped(Exception):
    """Enough was seen."""


@pytest.mark.parametrize("overrides", [(), ("train.steps=3", "sources.street.clips=2")])
def test_the_commands_in_their_heads_are_of_the_runs_that_the_demo_made(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made: list[RunConfig] = []

    def train(run: RunConfig) -> None:
        made.append(run)
        if len(made) == 3:  # teacher, baseline, distilled
            raise Stopped

    with pytest.raises(Stopped):
        run_demo(Path("demo"), overrides, Steps(lambda run: None, train, lambda *_: None, print))  # type: ignore[arg-type,return-value]
    for name, run in (("teacher", made[0]), ("student", made[2])):
        text = (tmp_path / "demo" / f"{name}.toml").read_text()
        (command,) = re.findall(r"^#   (stillroom train .*)$", text, re.MULTILINE)
        words = shlex.split(command)[2:]
        assert words[0] == f"demo/{name}.toml"
        sets = [word for word in words[1:] if word != "--set"]
        assert sets == list(overrides)
        assert load_run(Path(words[0]), sets) == run


def test_where_networks_run_is_said(run_file: Path) -> None:
    built = CliRunner().invoke(main, ["cache", "build", str(run_file)])
    assert "a teacher of kind python runs on cpu\n" in built.stderr
    trained = CliRunner().invoke(main, ["train", str(run_file)])
    assert "the student trains on cpu\n" in trained.stderr
