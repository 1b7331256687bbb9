from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.storage_specs.errors import ConfigError
from stillroom.storage_specs.fingerprint import (
    ABSENT,
    ANY,
    Difference,
    Digest,
    canonical_json,
    differences,
    fingerprint,
    sha256_file,
)

if TYPE_CHECKING:
    from pathlib import Path

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_canonical_json_has_one_form() -> None:
    assert (
        canonical_json({"b": (1, 2.0), "a": {"é": None}}) == '{"a":{"é":null},"b":[1,2]}'.encode()
    )
    assert canonical_json({"x": np.float64(0.5), "n": np.int64(3)}) == b'{"n":3,"x":0.5}'


def test_a_fingerprint_is_the_sha256_of_the_canonical_json() -> None:
    assert fingerprint({"b": 1, "a": 2}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()


@given(a=JSON, b=JSON)
def test_two_identities_differ_in_a_field_exactly_if_their_fingerprints_do(
    a: object, b: object
) -> None:
    assert differences({"x": a}, {"x": a}) == []
    same = fingerprint({"x": a}) == fingerprint({"x": b})
    # {} against {"k": "(absent)"} is the one pair that a reader could not tell apart either.
    assert same == (not differences({"x": a}, {"x": b})) or ABSENT in str((a, b))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2}, b"x", {1}])
def test_what_json_cannot_say_has_no_fingerprint(value: object) -> None:
    with pytest.raises(ConfigError, match=r"teacher\.mean"):
        fingerprint({"teacher": {"mean": value}})


def test_a_difference_names_its_field_and_both_values() -> None:
    cache = {"teacher": {"weights": "9f" * 32, "mean": [127, 127, 127]}, "canvas": [360, 480]}
    run = {"teacher": {"weights": "71" * 32, "mean": [127, 128, 127]}, "canvas": [360], "new": True}
    found = differences(cache, run)
    assert found == [
        Difference("teacher.weights", "9f" * 32, "71" * 32),
        Difference("teacher.mean[1]", 127, 128),
        Difference("canvas", [360, 480], [360]),
        Difference("new", ABSENT, True),
    ]
    assert str(found[0]) == "teacher.weights   cache 9f9f9f9f9f9f...   run 717171717171..."


def test_values_that_look_alike_when_cut_are_shown_whole() -> None:
    text = str(differences({"x": "a" * 70 + "b"}, {"x": "a" * 70 + "c"})[0])
    assert text.endswith('c"')
    assert "ab" in text
    assert str(differences({"x": 1}, {"x": "1"})[0]) == 'x   cache 1   run "1"'


def test_any_on_the_runs_side_agrees_with_anything_and_the_word_auto_only_with_itself() -> None:
    assert differences({"device": "cuda"}, {"device": ANY}) == []
    assert differences({"pairs": {"sha256": "9f"}}, {"pairs": ANY}) == []
    assert len(differences({"device": ANY}, {"device": "cuda"})) == 1
    assert differences({"mode": "slow"}, {"mode": "auto"}) == [Difference("mode", "slow", "auto")]
    assert len(differences({"classes": ["car", "sky"]}, {"classes": ["auto", "sky"]})) == 1
    # In names that follow from a run file it is written as the run file says it.
    assert fingerprint({"device": ANY}) == fingerprint({"device": "auto"})


def test_true_is_not_one() -> None:
    assert len(differences({"x": True}, {"x": 1})) == 1
    assert differences({"x": 127.0}, {"x": 127}) == []


def test_a_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"weights")
    assert sha256_file(tmp_path / "w") == hashlib.sha256(b"weights").hexdigest()


def test_a_fingerprint_over_digests_agrees_with_that_over_their_older_forms() -> None:
    def document(weights: str) -> dict[str, object]:
        return {"teacher": {"weights": weights, "kind": "smp"}, "more": [1, weights]}

    found = fingerprint(document(Digest("new", older="old")))
    assert found == fingerprint(document("new"))
    assert not isinstance(fingerprint(document("new")), Digest)
    before = fingerprint(document("old"))
    assert differences({"teacher": before}, {"teacher": found}) == []
    assert differences({"teacher": fingerprint(document("other"))}, {"teacher": found}) != []
