from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from stillroom.pipeline.run_file import load_run, parse_run
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_run_file_is_read_with_its_overrides(run_file: Path) -> None:
    run = load_run(run_file, ["train.seed=3", "terms.1.weight=2", "cache.path=elsewhere"])
    assert run.train is not None
    assert run.train.seed == 3
    assert run.terms[1].weight == 2
    assert str(run.cache.path) == "elsewhere"
    assert run.cached_sources() == ("street", "more")


def test_an_override_may_add_a_list_entry_and_a_whole_table(run_file: Path) -> None:
    run = load_run(
        run_file,
        ['terms.2={name="pixelwise_kl", teacher="tiny"}', 'terms.0.name="cross_entropy"'],
    )
    assert [term.name for term in run.terms] == ["cross_entropy", "probability_l2", "pixelwise_kl"]


def test_three_faults_are_all_reported_each_with_its_place(run_document: dict[str, Any]) -> None:
    run_document["train"]["stepz"] = 5
    run_document["terms"][1]["teacher"] = "tinny"
    run_document["cache"]["threshold"] = 1.5
    with pytest.raises(ConfigError) as caught:
        parse_run(run_document, "run.toml")
    message = str(caught.value)
    assert "3 faults" in message
    assert "train.stepz: unknown key; did you mean 'steps'?" in message
    assert "terms.1.teacher: no teacher 'tinny' in this file; did you mean 'tiny'?" in message
    assert "cache.threshold" in message
    assert "1.5" in message


@pytest.mark.parametrize(
    ("place", "key", "nearest"),
    [
        (("sources", "street"), "clipz", "clips"),
        (("teachers", "tiny"), "precison", "precision"),
        (("terms", 1), "wieght", "weight"),
        (("train", "view"), "crops", "crop"),
        (("train", "streams", "street"), "batches", "batch"),
        (("cache",), "artefacts", "artifacts"),
        (("student",), "optionz", "options"),
    ],
)
def test_an_unknown_key_names_the_nearest_of_its_section(
    run_document: dict[str, Any], place: tuple[str | int, ...], key: str, nearest: str
) -> None:
    section: Any = run_document
    for part in place:
        section = section[part]
    section[key] = 1
    with pytest.raises(ConfigError, match=f"{key}: unknown key; did you mean '{nearest}'"):
        parse_run(run_document, "run.toml")


def test_names_of_other_sections_must_exist(run_document: dict[str, Any]) -> None:
    run_document["evaluate"]["source"] = "stret"
    run_document["cache"]["sources"] = ["streets"]
    run_document["train"]["streams"]["mor"] = {"batch": 1}
    run_document["train"]["validation"] = {"source": "nowhere"}
    with pytest.raises(ConfigError) as caught:
        parse_run(run_document, "run.toml")
    for place in (
        "evaluate.source",
        "cache.sources.0",
        "train.streams.mor",
        "train.validation.sour",
    ):
        assert place in str(caught.value)


def test_an_unknown_kind_or_term_lists_the_known(run_document: dict[str, Any]) -> None:
    run_document["sources"]["street"]["kind"] = "cityscape"
    run_document["terms"][0]["name"] = "dice"
    with pytest.raises(ConfigError) as caught:
        parse_run(run_document, "run.toml")
    assert "camvid" in str(caught.value)
    assert "cross_entropy" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("seed", "KEY=VALUE"),
        ("terms.9.weight=1", "position from 0 to 2"),
        ("train.steps.deep=1", "is a value, not a section"),
        ("cache.path.x.y=1", "below a value"),
    ],
)
def test_a_wrong_override_says_what_it_should_be(
    run_file: Path, override: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_run(run_file, [override])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml.*No such file"):
        load_run(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[sources\n")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML"):
        load_run(broken)
    (tmp_path / "latin.toml").write_bytes(b"path = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml"):
        load_run(tmp_path / "latin.toml")
