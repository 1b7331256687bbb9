"""The identity of a set: plain JSON of the run alone, and what a build writes."""

from __future__ import annotations

import json
from pathlib import Path

from stillroom.pipeline.build.run import build
from stillroom.pipeline.identity import readable_identity, set_identity
from stillroom.pipeline.run_file.loading import load_run
from stillroom.pipeline.run_file.opened_run import open_run
from stillroom.storage_specs.fingerprint import ANY
from stillroom.storage_specs.store import Cache


def test_an_identity_is_json_of_the_run_alone_and_what_a_build_writes(run_file: Path) -> None:
    run = load_run(run_file)
    opened = open_run(run)
    identities = {
        (source, name): set_identity(opened, source, name, opened.artifacts(source, name))
        for source, name in opened.names()
    }
    assert not Path("street.cache").exists()
    assert json.loads(json.dumps(identities["street", "tiny"])) == identities["street", "tiny"]
    build(run)
    cache = Cache.open("street.cache")
    assert {pair: cache.artifact_set(*pair).identity for pair in cache.sets()} == identities


def test_a_reader_takes_what_was_encoded_twice_and_a_source_that_is_not_here(
    run_file: Path,
) -> None:
    more = 'sources.more={kind="images", root="nowhere"}'
    opened = open_run(load_run(run_file, [more]), must_exist=False)
    identity = readable_identity(opened, "more", "tiny", ("logits",))
    assert identity["transcoded_from"] == ANY
    assert identity["source"] == {
        "kind": "images", "classes": None, "frames": ANY, "listing_sha256": ANY,
    }  # fmt: skip
