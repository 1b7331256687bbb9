"""A run document that is written as TOML is read as the same document."""

from __future__ import annotations

import math
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stillroom.pipeline.run_file.writing import as_toml

TEXTS = st.text(st.characters(codec="utf-8"))
SCALARS = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


@given(st.dictionaries(TEXTS, VALUES, max_size=4))
def test_what_is_written_is_read_again(document: dict[str, Any]) -> None:
    assert tomllib.loads(as_toml(document)) == document


def test_sections_are_tables_and_what_is_below_them_is_in_line() -> None:
    document = {
        "train": {"path": "a b", "streams": {"camvid": {"batch": 8}}, "ema": 1e-05},
        "terms": [{"name": "cross_entropy", "weight": 2}],
        "odd key": {"x.y": math.inf},
    }
    assert as_toml(document) == (
        'terms = [{name = "cross_entropy", weight = 2}]\n'
        "\n"
        "[train]\n"
        'path = "a b"\n'
        "streams = {camvid = {batch = 8}}\n"
        "ema = 1e-05\n"
        "\n"
        '["odd key"]\n'
        '"x.y" = inf\n'
    )
