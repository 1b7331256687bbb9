"""The command line as a user meets it: help, the whole path, exit codes, one message for errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from stillroom.cli import main
from stillroom.commands.cache import cache


def stillroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("cache",),
        *(("cache", verb) for verb in cache.commands),
        ("train",),
        ("eval",),
        ("sweep",),
        ("submit",),
        ("export",),
        ("doctor",),
        ("init",),
        ("predict",),
        ("prune",),
        ("demo",),
    ],
)
def test_every_command_explains_itself_with_an_example(command: tuple[str, ...]) -> None:
    shown = stillroom(*command, "--help")
    assert shown.exit_code == 0
    if command not in ((), ("cache",)):
        assert "Example:\n    stillroom" in shown.stdout


def commands_of(group: click.Group, *before: str) -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands_of(command, *before, name)
        else:
            found[" ".join((*before, name))] = command
    return found


@pytest.mark.parametrize("flag", ["--set", "--source", "--address", "--json"])
def test_an_option_means_the_same_in_every_command(flag: str) -> None:
    facts = {
        name: (option.name, option.type.name, option.is_flag, option.multiple, option.help)
        for name, command in commands_of(main).items()
        for option in command.params
        if isinstance(option, click.Option) and flag in option.opts
    }
    if flag == "--address":  # a job is handed to the dashboard, which listens at a port of its own
        assert facts.pop("submit")[:4] == ("address", "text", False, False)
    assert len(facts) > 3
    assert len(set(facts.values())) == 1, facts


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, stillroom.cli\n"
        "print(sorted({'torch', 'ray', 'dask', 'zarr', 'numpy', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_whole_path_through_the_command_line(run_file: Path) -> None:
    planned = stillroom("cache", "build", run_file, "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "nothing written" in planned.stdout
    assert not Path("street.cache").exists()

    built = stillroom("cache", "build", run_file)
    assert built.exit_code == 0, built.stderr
    assert "10 of 10 shards computed" in built.stdout
    assert "nothing to do" in stillroom("cache", "build", run_file).stdout

    info = json.loads(stillroom("cache", "info", run_file, "--json").stdout)
    assert {(entry["source"], entry["set_name"]) for entry in info["sets"]} == {
        ("street", "frames"), ("street", "tiny"), ("more", "frames"), ("more", "tiny"),
    }  # fmt: skip
    assert "street/tiny/logits" in stillroom("cache", "info", "street.cache", "--bad").stdout

    verified = stillroom("cache", "verify", "street.cache")
    assert verified.exit_code == 0
    assert "complete and sound" in verified.stdout

    drawn = stillroom("cache", "preview", run_file, "--frames", "2", "--out", "preview.png")
    assert drawn.exit_code == 0, drawn.stderr
    for line in drawn.stdout.split():
        assert Path(line).is_absolute()
        assert Path(line).read_bytes().startswith(b"\x89PNG")

    looked_at = stillroom("train", run_file, "--check")
    assert "a whole step of training" in looked_at.stdout
    terms = json.loads(stillroom("train", run_file, "--check", "--json").stdout)["terms"]
    assert all(len(one["values"]) == 3 and one["label"] in looked_at.stdout for one in terms)
    assert not Path("run").exists()  # nothing is written
    trained = stillroom("train", run_file)
    assert trained.exit_code == 0, trained.stderr
    assert "finished before" in stillroom("train", run_file).stdout

    scored = stillroom("eval", "run", run_file, "--sheet", "sheet.png", "--json")
    assert scored.exit_code == 0, scored.stderr
    document = json.loads(scored.stdout)
    assert 0 <= document["miou"] <= 1
    assert document["cost"]["parameters"] > 0
    assert Path("sheet.png").read_bytes().startswith(b"\x89PNG")


def test_build_and_check_say_which_weights_were_taken(run_file: Path) -> None:
    import torch
    from tiny_networks import Tiny

    raw, averaged = ({f"module.{k}": v for k, v in Tiny(9, i).state_dict().items()} for i in (1, 2))
    torch.save({"model": raw, "model_ema": {**averaged, "n_averaged": torch.tensor(2)}}, "w.pth")
    weights = ("--set", "teachers.tiny.weights=w.pth")
    refused = stillroom("cache", "build", run_file, *weights)
    assert refused.exit_code == 2
    assert 'weights_key = "model_ema.module"' in refused.stderr
    assert not Path("street.cache").exists()
    weights += ("--set", "teachers.tiny.weights_key=model_ema")
    built = stillroom("cache", "build", run_file, *weights)
    assert built.exit_code == 0, built.stderr
    assert "weights w.pth: 4 tensors from model_ema.module; 5 others" in built.stderr
    start = ("--set", "student.weights=w.pth", "--set", "student.weights_key=model")
    looked_at = stillroom("train", run_file, *weights, *start, "--check", "--json")
    assert looked_at.exit_code == 0, looked_at.stderr
    assert "weights w.pth: 4 tensors from model.module;" in looked_at.stderr
    json.loads(looked_at.stdout)
    assert stillroom("train", run_file, *weights, *start).exit_code == 0
    assert stillroom("eval", "run", run_file, *weights).exit_code == 0


def test_verify_ends_with_1_and_names_what_is_broken(run_file: Path) -> None:
    stillroom("cache", "build", run_file)
    victim = Path("street.cache/street/tiny/logits/c.1.0.0.0")
    content = bytearray(victim.read_bytes())
    content[40] ^= 4
    victim.write_bytes(bytes(content))
    found = stillroom("cache", "verify", "street.cache")
    assert found.exit_code == 1
    assert "street/tiny/logits" in found.stdout
    assert "shard 1" in found.stdout
    document = json.loads(stillroom("cache", "verify", "street.cache", "--json").stdout)
    assert {fault["shard"] for fault in document["faults"]} == {1}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("train", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("cache", "info", "nowhere.cache"), "there is no cache here"),
        (("cache", "verify", "nowhere.cache"), "there is no cache here"),
        (("cache", "preview", "nowhere.cache"), "there is no cache here"),
        (("train", "run.toml", "--set", "train.stepz=1"), "did you mean 'steps'?"),
        (("train", "run.toml", "--set", "nonsense"), "KEY=VALUE"),
        (("train", "run.toml"), "run `stillroom cache build run.toml`"),
        (("cache", "verify", "run.toml"), "run `stillroom cache build run.toml`"),
        (("train", "."), "run file .: this is a folder; expected a TOML file"),
        (("eval", "nowhere", "run.toml"), "no such run folder or checkpoint"),
        (
            ("cache", "build", "run.toml", "--set", "teachers.tiny.target=absent:network"),
            "module 'absent' cannot be imported",
        ),
        (("cache", "info", "nowhere.cache", "--set", "cache.path=x"), "this is a cache"),
        (("eval", "teacher:tiny", "run.toml", "--sheet", "run.toml/x.png"), "folder cannot be"),
        (("eval", ".", "run.toml"), "no run folder"),
        (
            ("predict", "nowhere", "run.toml", "--out", "x"),
            "run.toml: neither an image nor a video",
        ),
        (("predict", "nowhere", ".", "--out", "x"), "--out x lies in ."),
        (("predict", "nowhere", ".", "--out", "x", "--frames", "2"), "--frames is of a webcam"),
        (("predict", "nowhere", "webcam:98", "--out", "x"), "webcam:98: no camera can be opened"),
        (("predict", "nowhere", "webcam", ".", "--out", "x"), "leave out the other inputs"),
        (("prune", "nowhere"), "no such run folder or checkpoint"),
        (("export", "nowhere", "--to", "onnx"), "no such run folder or checkpoint"),
        (("export", "nowhere", "--to", "encoder", "--size", "8", "8"), "--size: --to encoder"),
        (("export", "nowhere", "--to", "encoder", "--frames", "20"), "--frames: --to encoder"),
        (("export", ".", "--to", "onnx", "--out", "x.pt2"), "expected a name ending in .onnx"),
    ],
)
def test_a_users_error_is_one_message_and_exit_code_2(
    run_file: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    del run_file  # it is in the working folder
    said = stillroom(*arguments)
    assert said.exit_code == 2
    assert said.stderr.startswith("error: ") or "\nerror: " in said.stderr
    assert complaint in said.stderr
    assert "Traceback" not in said.stderr
    assert not said.stdout


@pytest.mark.parametrize("command", [["cache", "build"], ["train"], ["eval", "teacher:nobody"]])
def test_no_empty_bar_stands_above_an_error_that_comes_first(
    run_file: Path, command: list[str]
) -> None:
    wrong = ["--set", 'teachers.tiny.weights="nope.pth"']
    done = CliRunner().invoke(main, [*command, str(run_file), *wrong])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("models", [(), ("runs/x",)])
def test_a_score_without_a_run_file_says_that_one_is_needed(models: tuple[str, ...]) -> None:
    said = stillroom("eval", *models)
    assert said.exit_code == 2
    assert "give models and, behind them, the run file whose [evaluate]" in said.stderr


def test_a_folder_of_somebody_elses_is_no_run_folder(run_file: Path) -> None:
    Path("foreign").mkdir()
    Path("foreign/config.json").write_text('{"architectures": ["Segformer"]}')
    said = stillroom("eval", "foreign", run_file)
    assert said.exit_code == 2
    assert "no run folder" in said.stderr


def test_brackets_in_paths_are_not_markup(run_file: Path) -> None:
    said = stillroom("cache", "build", run_file, "--set", "cache.path=t[/x][red].cache")
    assert said.exit_code == 0, said.stderr
    assert "t[/x][red].cache: 10 of 10 shards computed" in said.stdout
    assert "nothing to do" in stillroom(
        "cache", "build", run_file, "--set", "cache.path=t[/x][red].cache"
    ).stdout  # fmt: skip


def test_a_changed_run_file_finds_its_cache_by_set(run_file: Path) -> None:
    stillroom("cache", "build", run_file, "--set", "cache.path=other.cache")
    assert stillroom("cache", "verify", run_file).exit_code == 2
    assert stillroom("cache", "verify", run_file, "--set", "cache.path=other.cache").exit_code == 0


def test_a_fault_of_ours_keeps_its_traceback(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("stillroom.pipeline.run_file.loading.load_run", broken)
    assert isinstance(stillroom("train", run_file).exception, ZeroDivisionError)


@pytest.mark.slow
def test_the_demo_leaves_its_comparison_and_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = [
        "train.steps=2",
        "sources.street.clips=4",
        "sources.street_unlabelled.clips=4",
        "sources.street_test.clips=2",
    ]
    overrides = [part for each in smaller for part in ("--set", each)]
    said = stillroom("demo", "--out", "out", "--json", *overrides)
    assert said.exit_code == 0, said.stderr
    document = json.loads(said.stdout)
    assert document["miou"].keys() == {"teacher", "baseline", "distilled"}
    assert document["gain"] == document["miou"]["distilled"] - document["miou"]["baseline"]
    for picture in document["pictures"]:
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    again = stillroom("demo", "--out", "out", "--json", *overrides)  # finds everything done
    assert json.loads(again.stdout)["miou"] == document["miou"]
