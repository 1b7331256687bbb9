from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.pipeline.run_file.loading import load_run, override, parse_run, with_absolute_paths
from stillroom.storage_specs.errors import ConfigError

CAMVID = Path(__file__).resolve().parents[3] / "examples" / "camvid.toml"


def faults(document: dict[str, Any]) -> list[str]:
    """The lines of a refused run file, its heading aside."""
    with pytest.raises(ConfigError) as caught:
        parse_run(document, "run.toml")
    heading, *lines = str(caught.value).splitlines()
    assert f"{len(lines)} fault" in heading
    return [line.strip() for line in lines]


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


def test_of_steps_and_epochs_the_one_that_was_set_last_holds(run_file: Path) -> None:
    for given, expected in {
        ("train.epochs=3",): (None, 3),
        ("train.epochs=3", "train.steps=2"): (2, None),
    }.items():
        train = load_run(run_file, given).train
        assert train is not None
        assert (train.steps, train.epochs) == expected


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


def test_a_kind_or_name_that_is_not_given_is_asked_for(run_document: dict[str, Any]) -> None:
    run_document["terms"].append({"weight": 2.0})
    run_document["sources"]["photos"] = {"root": "photos"}
    photos, term = faults(run_document)
    assert photos.startswith("sources.photos: give its `kind`; known: ade20k, ")
    assert term.startswith("terms.2: give its `name`; known: ")
    assert ", cross_entropy, " in term


@pytest.mark.parametrize("given", [[], [96]])
def test_a_pair_that_is_short_says_what_it_is_of(
    run_document: dict[str, Any], given: list[int]
) -> None:
    run_document["cache"]["canvas"] = given
    run_document["train"]["view"] = {"crop": given, "scale": given}
    assert faults(run_document) == [
        f"cache.canvas: expected [height, width] (two numbers); got {given}",
        f"train.view.crop: expected [height, width] (two numbers); got {given}",
        f"train.view.scale: expected [lowest, highest] (two numbers); got {given}",
    ]


def test_a_misspelt_key_that_is_required_is_one_fault(run_document: dict[str, Any]) -> None:
    run_document["cache"]["canvass"] = run_document["cache"].pop("canvas")
    run_document["train"]["streams"]["more"] = {"bach": 2}
    assert faults(run_document) == [
        "cache.canvass: unknown key; did you mean 'canvas'?",
        "train.streams.more.bach: unknown key; did you mean 'batch'?",
    ]
    run_document["cache"]["canvas"] = run_document["cache"].pop("canvass")
    run_document["train"]["streams"]["more"] = {"qqq": 2}
    assert len(faults(run_document)) == 2


def test_a_section_is_not_repeated_behind_its_fault(run_document: dict[str, Any]) -> None:
    run_document["train"]["epochs"] = 3
    assert faults(run_document) == ["train: give either steps or epochs, and not both"]


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
        ("terms.9.weight=1", r"'9' should be a position from 0 to 1 \(2 adds one\)"),
        ("train.steps.deep=1", "is a value, not a section"),
        ("cache.path.x.y=1", "below a value"),
    ],
)
def test_a_wrong_override_says_what_it_should_be(
    run_file: Path, override: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_run(run_file, [override])


def test_a_list_that_is_empty_has_one_position(run_document: dict[str, Any]) -> None:
    run_document["terms"] = []
    with pytest.raises(ConfigError, match="'1' should be 0, which adds one"):
        override(run_document, ["terms.1.weight=2"])


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


def test_a_byte_order_mark_is_no_fault(run_file: Path) -> None:
    plain = load_run(run_file)
    run_file.write_bytes(b"\xef\xbb\xbf" + run_file.read_bytes())
    assert load_run(run_file) == plain


def test_faults_of_the_cache_are_found_together_before_anything_runs(
    run_document: dict[str, Any],
) -> None:
    run_document["cache"] |= {"preset": "fst", "artifacts": ["logitz"], "canvas": [0, -4]}
    found = faults(run_document)
    assert len(found) == 3
    assert "cache.canvas: height and width must both be above 0; got [0, -4]" in found
    assert any("cache.artifacts" in line and "mean 'logits'?" in line for line in found)
    assert any("cache.preset" in line and "mean 'fast'?" in line for line in found)


@pytest.mark.parametrize("value", ["cache.path=", "cache.path= ", "cache.reuse=''"])
def test_an_empty_place_of_a_cache_is_not_the_current_folder(run_file: Path, value: str) -> None:
    key = value.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"1 fault\n  {key}: .* got an empty text; write '\.'"):
        load_run(run_file, [value])


@pytest.mark.parametrize("canvas", ["[true,64.0]", "[32,48.0]", '["32",48]'])
def test_the_sides_of_a_canvas_are_whole_numbers(run_file: Path, canvas: str) -> None:
    with pytest.raises(ConfigError, match=r"cache\.canvas\.\d: Input should be a valid integer"):
        load_run(run_file, [f"cache.canvas={canvas}"])


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("artifacts", ["features"], "name a layer"),
        ("artifacts", ["features/"], "a layer's name is"),
        ("artifacts", ["frames"], "unknown artifact 'frames'"),
        ("artifacts", ["logits/x"], "has no layers; write 'logits'"),
        ("artifacts", ["logits", "logits"], "'logits' is named twice"),
        ("artifacts", [], "at least one"),
        ("codecs", {"logits": "bite"}, "unknown codec 'bite'"),
        ("codecs", {"logits": "raw"}, "cannot store it"),
        ("codecs", {"logits": {"codec": 3}}, "expected names"),
        ("codecs", {"logitz": "half"}, "did you mean 'logits'?"),
        ("sources", [], "nothing to cache"),
        ("sources", ["street", "street"], "'street' is named twice"),
    ],
)
def test_a_fault_of_the_cache_is_a_fault_of_the_run_file(
    run_document: dict[str, Any], key: str, value: Any, complaint: str
) -> None:
    run_document["cache"][key] = value
    (found,) = faults(run_document)
    assert found.startswith(f"cache.{key}: ")
    assert complaint in found


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("features/penultimat", "did you mean 'features/penultimate'?"),
        ("code/penultimat", "did you mean 'code/penultimate'?"),
        ("code/mine", "did you mean 'code/mind'?"),
    ],
)
def test_a_codec_of_what_is_not_cached_is_a_fault(
    run_document: dict[str, Any], name: str, hint: str
) -> None:
    run_document["adapt"] = {"tiny": {} if "pen" in name else {"name": "mind"}}
    run_document["cache"]["codecs"] = {name: "half"}
    (found,) = faults(run_document)
    assert found == f"cache.codecs.{name}: this run caches no such artifact; {hint}"


def test_a_codec_of_an_artifact_that_is_left_out_is_a_fault(run_document: dict[str, Any]) -> None:
    run_document["cache"] |= {"artifacts": ["pseudo_label"], "codecs": {"features": "half"}}
    (found,) = faults(run_document)
    assert found.startswith("cache.codecs.features: this run caches no such artifact; known: ")


def test_a_codec_of_what_may_be_cached_is_taken(run_document: dict[str, Any]) -> None:
    run_document["adapt"] = {"tiny": {"layer": "penultimate"}}
    codecs = {"frames": "raw", "labels": "raw", "flow": "half", "features": "half", "code": "half"}
    codecs |= {"logits": "half", "features/penultimate": "byte", "code/penultimate": "byte"}
    run_document["cache"]["codecs"] = codecs
    assert parse_run(run_document, "run.toml").cache.codecs == codecs
    # Training reads a code whose section was in the run that made it.
    del run_document["adapt"]
    run_document["terms"][1] = {"name": "adaptation", "teacher": "tiny", "teacher_layer": "small"}
    run_document["cache"]["codecs"] = {"code/small": "half"}
    parse_run(run_document, "run.toml")
    del run_document["cache"]["artifacts"]
    run_document["cache"]["codecs"] = {"confidence": "half"}
    parse_run(run_document, "run.toml")


def test_frames_of_a_shard_are_no_codec(run_document: dict[str, Any]) -> None:
    run_document["cache"]["codecs"] = {"shard_frames": 3}
    (found,) = faults(run_document)
    assert found.startswith("cache.codecs: unknown artifact 'shard_frames'")


def test_a_run_that_caches_nothing_is_refused(run_document: dict[str, Any]) -> None:
    run_document |= {"teachers": {}, "terms": []}
    run_document["cache"]["frames"] = False
    (found,) = faults(run_document)
    assert "nothing to cache" in found


def test_names_that_a_cache_has_no_room_for_are_faults(run_document: dict[str, Any]) -> None:
    street, tiny = run_document["sources"]["street"], run_document["teachers"]["tiny"]
    run_document["sources"] |= {"Street": street, "labels": street}
    run_document["teachers"] |= {"frames": tiny, "a b": tiny}
    found = faults(run_document)
    assert len(found) == 4
    for start in (
        "sources.Street: source name 'Street': use a-z",
        "sources.labels: source name 'labels' is reserved",
        "teachers.frames: teacher name 'frames' is reserved",
        "teachers.a b: teacher name 'a b': use a-z",
    ):
        assert any(line.startswith(start) for line in found)


def test_flow_models_have_names_as_teachers_have_and_none_of_theirs(
    run_document: dict[str, Any],
) -> None:
    dis = {"kind": "dis"}
    run_document["flows"] = {"dis": dis}
    assert parse_run(run_document, "run.toml").flows["dis"].kind == "dis"
    run_document["flows"] = {"frames": dis, "exact": dis, "a b": dis, "a.b": dis}
    found = faults(run_document)
    for start in (
        "flows.frames: flow model name 'frames' is reserved",
        "flows.exact: flow model name 'exact' is reserved for a source's own flow",
        "flows.a b: flow model name 'a b': use a-z",
        "flows.a.b: flow model name 'a.b': what follows a '.' is the cache's to choose",
    ):
        assert any(line.startswith(start) for line in found)
    run_document["flows"] = {"tiny": dis}
    (said,) = faults(run_document)
    assert said.startswith("flows: 'tiny' is the name of a teacher too")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("flows.dis={kind='dis', pre_set='fast'}", "flows.dis.pre_set: unknown key; did you mean"),
        ("sources.camvid.splt=1", "sources.camvid.splt: unknown key; did you mean 'split'?"),
        ("terms.1.wieght=2", "terms.1.wieght: unknown key; did you mean 'weight'?"),
        ("student.encodr=2", "student.encodr: unknown key; did you mean 'encoder'?"),
        ("teachers.fpn.weihts=2", "teachers.fpn.weihts: unknown key; did you mean 'weights'?"),
        ("terms.1.name=probabilty_l2", "terms.1: no name 'probabilty_l2'; did you mean 'prob"),
        ("sources.camvid.kind=camvit", "sources.camvid: no kind 'camvit'; did you mean 'camvid'?"),
        (
            "terms.1={name='pixelwise_kl', mean_of={fpn=0.5, fpm=0.5}}",
            "terms.1.mean_of: no teacher 'fpm' in this file; did you mean 'fpn'?",
        ),
        (f"train.seed={2**63}", "train.seed: Input should be less than"),
    ],
)
def test_a_place_is_what_the_file_calls_it(override: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run(CAMVID, [override])
    assert f"1 fault\n  {complaint}" in str(caught.value)


@pytest.mark.parametrize(
    ("mean", "std"), [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)]
)
def test_a_mean_and_deviation_of_pixels_in_0_to_1_are_refused(
    run_document: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    run_document["teachers"]["tiny"] |= {"mean": mean, "std": std}
    run_document["student"] |= {"mean": mean, "std": std}
    found = faults(run_document)
    for line, section in zip(found, ("teachers.tiny", "student"), strict=True):
        assert line.startswith(
            f"{section}.std: mean {mean} and std {std} look like those of pixels"
        )
        assert "multiply both by 255" in line


@pytest.mark.parametrize(
    ("mean", "std"),
    [([0, 0, 0], [1, 1, 1]), ([0, 0, 0], [255, 255, 255]), ([127.5] * 3, [127.5] * 3)],
)
def test_other_means_and_deviations_are_taken(
    run_document: dict[str, Any], mean: list[float], std: list[float]
) -> None:
    run_document["teachers"]["tiny"] |= {"mean": mean, "std": std}
    assert parse_run(run_document, "run.toml").teachers["tiny"].std == tuple(std)


@pytest.mark.parametrize("root", [3, ["a", 3]])
def test_a_value_of_several_types_has_one_line(run_document: dict[str, Any], root: Any) -> None:
    run_document["sources"]["images"] = {"kind": "images", "root": root}
    (found,) = faults(run_document)
    assert found.startswith("sources.images.root: ")
    assert "not a valid path" in found
    assert found.endswith(f"got {root!r}")


def test_home_is_found_in_every_path(
    run_document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run_document["cache"]["path"] = "~/a.cache"
    run_document["train"]["path"] = "~/run"
    run_document["teachers"]["tiny"]["weights"] = "~/tiny.pth"
    run_document["teachers"]["big"] = {"kind": "hf", "path": "~/big"}
    run_document["student"]["weights"] = "~/student.pth"
    run_document["sources"]["photos"] = {"kind": "images", "root": ["~/one", "two"]}
    run = parse_run(run_document, "run.toml")
    assert "~" not in repr(run)
    assert run.cache.path == tmp_path / "a.cache"
    assert run.teachers["big"].model_dump()["path"] == str(tmp_path / "big")
    assert run.sources["photos"].model_dump()["root"] == (tmp_path / "one", Path("two"))
    run_document["cache"]["path"] = "~nobody-of-this-name/a.cache"
    with pytest.raises(ConfigError, match="begins with ~"):
        parse_run(run_document, "run.toml")


def test_another_process_gets_absolute_paths_and_the_ids_of_the_hub_as_they_are(
    run_document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "segformer").mkdir(parents=True)
    hub = {"kind": "hf", "revision": "a" * 40, "classes": 3}
    run_document["teachers"]["local"] = {"kind": "hf", "path": "models/segformer", "classes": 3}
    run_document["teachers"]["hub"] = {**hub, "path": "somebody/segformer"}
    run = with_absolute_paths(with_absolute_paths(parse_run(run_document, "run.toml")))
    paths = {name: run.teachers[name].model_dump()["path"] for name in ("local", "hub")}
    assert paths == {
        "local": str(tmp_path / "models" / "segformer"),
        "hub": "somebody/segformer",
    }
    assert run.cache.path == tmp_path / "street.cache"
