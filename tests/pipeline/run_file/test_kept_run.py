"""The config of a run folder becomes the run file that it came from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillroom.pipeline.run_file.kept_run import as_run_file
from stillroom.pipeline.run_file.loading import load_run, parse_run, read_toml
from stillroom.pipeline.run_file.sections import as_document
from stillroom.pipeline.run_file.writing import as_toml

REPOSITORY = Path(__file__).resolve().parents[3]
RUNS = sorted(
    path
    for folder in ("examples", "recipes")
    for path in (REPOSITORY / folder).rglob("*.toml")
    if not path.stem.endswith("_sweep")
)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_kept_run_is_written_as_a_run_file_that_means_the_same(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    run = load_run(path)
    kept = json.loads(json.dumps({**as_document(run), "classes": ["sky", "road"]}))
    document = as_run_file(kept)
    (tmp_path / "run.toml").write_text(as_toml(document))
    assert parse_run(read_toml(tmp_path / "run.toml", ""), "again") == run
    assert document["cache"].keys() <= read_toml(path, "")["cache"].keys()
