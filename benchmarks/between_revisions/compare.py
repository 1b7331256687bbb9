"""Hold a checkout against caches, runs and a sweep that another made: do they open, resume, score?

    python benchmarks/between_revisions/compare.py ../made
    python benchmarks/between_revisions/compare.py ../made --only resume afresh

`../made` is from make.py beside this file. In copies of it the code of this checkout (or of --code)
is asked what the other was asked, is given every command again and must change no file (but that
a config may say keys that are new, as its version leaves them), goes on
where builds and trainings were interrupted, and makes everything afresh. Prints a line a check and
where it differs, and exits with 1 if one does. Not compared: time, memory, paths, `created_by`,
advice in prose.
About a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from make import COMMANDS, INTERRUPTED, Interrupted, Stillroom, contents, digest, steady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONFIG = "config.json"  # of a run folder


def asked(stillroom: Stillroom, question: str, answer: Any) -> tuple[Any, Any]:
    return steady(answer), steady(stillroom.ask(question))


def again(stillroom: Stillroom, command: str) -> tuple[Any, Any]:
    before = files(stillroom.folder)
    stillroom.run(command)
    return before, files(stillroom.folder)


def resumed(stillroom: Stillroom, one: Interrupted) -> tuple[Any, Any]:
    stillroom.run(one.command)
    return contents(stillroom.folder / one.whole), contents(stillroom.folder / one.made)


def afresh(made: Path, stillroom: Stillroom, command: str, whole: str) -> tuple[Any, Any]:
    stillroom.run(command)
    if not whole:
        return None, None
    expected, folder = made / "work" / whole, stillroom.folder / whole
    answer = contents(expected), contents(folder)
    # Later commands start from what was made: safetensors orders metadata by chance, and a
    # teacher is known by the bytes of its weights.
    shutil.rmtree(folder)
    shutil.copytree(expected, folder)
    return answer


def files(folder: Path) -> dict[str, Any]:
    """Return the digest of every file but pictures, which are drawn each time; configs as they are.

    In them, keys that are new since say what was so before.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): (
            json.loads(path.read_text()) if path.name == CONFIG else digest(path.read_bytes())
        )
        for path in paths
        if path.suffix != ".png"
    }


def checks(made: Path, code: Path, place: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Give each check's name, and what returns the expected and the found."""
    copied, fresh = place / "copied", place / "fresh"
    shutil.copytree(made, copied)
    shutil.copytree(made, fresh, ignore=shutil.ignore_patterns("runs"))
    stillroom = Stillroom(code, copied / "work")
    for question, answer in json.loads((made / "answers.json").read_text()).items():
        yield f"asked: {question}", partial(asked, stillroom, question, answer)
    for command in COMMANDS:
        yield f"again: {command}", partial(again, stillroom, command)
    for one in INTERRUPTED:
        yield f"resumed: {one.command}", partial(resumed, stillroom, one)
    stillroom = Stillroom(code, fresh / "work")
    for command, whole in COMMANDS.items():
        yield f"afresh: {command}", partial(afresh, made, stillroom, command, whole)


def flat(value: Any, place: str = "") -> dict[str, str]:
    """Return a document's leaves as JSON, by place."""
    if not value or not isinstance(value, dict | list):
        return {place: json.dumps(value)}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return {
        below: leaf for key, each in entries for below, leaf in flat(each, f"{place} {key}").items()
    }


def differences(check: Callable[[], tuple[Any, Any]]) -> list[str]:
    try:
        expected, found = map(flat, check())
    except RuntimeError as error:
        return [str(error)]
    return [
        f"{place}: expected {expected.get(place)}, found {found.get(place)}"
        for place in expected | found
        if expected.get(place) != found.get(place)
        and not (place not in expected and {"config", CONFIG} & set(re.split("[ /]", place)))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("made", type=Path, help="the folder that make.py made")
    parser.add_argument("--code", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--only", nargs="+", default=[""], help="words of the checks to do")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as place:
        for name, check in checks(options.made, options.code, Path(place)):
            if not any(word in name for word in options.only):
                continue
            wrong = differences(check)
            failed = failed or bool(wrong)
            print("FAILED" if wrong else "ok    ", name, flush=True)
            print("".join(f"        {line}\n" for line in wrong[:5]), end="", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
