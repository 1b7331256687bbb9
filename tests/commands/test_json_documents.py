"""The keys of every command's --json document: what other programs read does not change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from PIL import Image

from stillroom.cli import main

if TYPE_CHECKING:
    from pathlib import Path

COST = (
    "cost(height width parameters flops speed(median_ms p95_ms frames_per_second runs warm_up "
    "device))"
)
EVALUATION = (
    "model source looks(flip scales tile overlap) size frames skipped unlabelled bad_labels "
    "boundary_miou miou mean_accuracy pixel_accuracy absent ignored "
    f"classes(name iou accuracy pixels boundary_iou) {COST} sheet video pictures"
)
ERRORS = (
    "artifact codec frames max_error mean_error bound of_bound differing kl spatial_kl agreement "
    "bytes"
)
VIEWS = "views(view frames kl agreement live(miou pixel_accuracy) said(miou pixel_accuracy) "
SOURCE_CODES = "source frames bad shards already features_bytes code_bytes fingerprint"
# By command: its keys in order, those of a nested object, or of the first of a list, in brackets.
DOCUMENTS = {
    "cache size RUN": (
        "sets(source set frames shards(fast compact exact) bytes(fast(frames labels) "
        "compact(frames labels) exact(frames labels))) bytes(fast compact exact) sample_frames "
        "free_bytes"
    ),
    "cache build RUN --dry-run": (
        "sets(source set missing_frames missing_shards bytes(frames labels) seconds) bytes seconds "
        "free_bytes lonely_frames"
    ),
    "cache build RUN": (
        "cache shards shards_computed frames_computed bytes_written rows_retried bad_frames "
        "bad_labels "
        "label_pixels(street(sky building road pavement tree pole sign car pedestrian)) "
        "pseudo_labelled(street/tiny more/tiny) seconds "
        "produce_seconds "
        "pace(teacher_busy encoders_busy decode_wait_seconds encode_wait_seconds change)"
    ),
    "cache info RUN": (
        "sets(source set_name frames committed_frames shards committed_shards fingerprint "
        "arrays(frames) bytes(frames) bad bad_labels mean_confidence fidelity)"
    ),
    "cache verify RUN": (
        "cache faults repaired missing_shards(more/frames more/tiny street/frames street/tiny)"
    ),
    "cache fidelity RUN --frames 1 --codecs --source street": (
        f"sets(source teacher frames artifacts({ERRORS}) other_codecs({ERRORS}) "
        f"refused(logits topk) {VIEWS}gain gain_error) recommendation device(cache live) picture "
        "mirrored(features/penultimate))"
    ),
    "cache stats RUN": (
        "sets(source teacher fingerprint missing_shards frames labels "
        "pseudo_label(pavement car pedestrian none) "
        "class_weights(sky building road pavement tree pole sign car pedestrian) "
        "argmax_of_logits(pavement pole car pedestrian) "
        "confidence_histogram thresholds(threshold kept accuracy labelled_kept)) features picture"
    ),
    "cache adapt RUN": (
        "cache codes(teacher features code set_name weights trained measures(frames relative_mse "
        f"pca_relative_mse pca_components code_numbers pca_numbers) sources({SOURCE_CODES}))"
    ),
    "cache transcode street.cache small.cache --codec logits=half": (
        "cache sets(source set_name shards already waiting bytes_before bytes_after codecs notes "
        "fingerprint)"
    ),
    "cache copy street.cache copy.cache": (
        "cache sets(source set_name shards already missing bytes)"
    ),
    "train RUN --check": (
        "step_seconds terms(stream label weight values gradients seconds peak_bytes)"
    ),
    "train RUN --profile": (
        "steps step_seconds parts(name seconds share) loader(name seconds share) bottleneck advice "
        "trace"
    ),
    "train RUN": (
        "steps best_score best_step losses(loss street/cross_entropy street/probability_l2/tiny "
        "more/probability_l2/tiny) seconds wait_seconds skipped(street more) "
        "paths(model last metrics config fingerprints) already_finished score"
    ),
    "eval run RUN --limit 2": EVALUATION,
    "init photos --out first.toml": "path canvas sources(unlabelled(role kind frames remarks))",
    "doctor RUN": "findings(area state what)",
    "predict run photo.png --out predicted": "out model predicted found skipped films",
    "export run --to safetensors": (
        "path to bytes size canvas classes comparison(frames pixels largest_difference "
        "largest_logit differing_labels wrong_labels)"
    ),
    "eval run teacher:tiny RUN --limit 2": f"models({EVALUATION})",
}
FAULT = "source set shard array index kind message"


def keys(found: Any) -> str:
    if isinstance(found, list):
        return keys(found[0]) if found else ""
    if not isinstance(found, dict):
        return ""
    nested = ((name, keys(value)) for name, value in found.items())
    return " ".join(f"{name}({inner})" if inner else name for name, inner in nested)


def document(command: str, run_file: Path) -> dict[str, Any]:
    arguments = [str(run_file) if word == "RUN" else word for word in command.split()]
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_every_document_has_the_keys_that_it_always_had(run_file: Path) -> None:
    with run_file.open("a") as file:
        file.write("adapt = { tiny = { channels = 4, strides = [2, 1, 1], epochs = 1 } }\n")
    Image.new("RGB", (48, 32)).save(run_file.parent / "photo.png")
    (run_file.parent / "photos").mkdir()
    Image.new("RGB", (48, 32)).save(run_file.parent / "photos" / "one.png")
    found = {command: keys(document(command, run_file)) for command in DOCUMENTS}
    assert found == DOCUMENTS
    victim = run_file.parent / "street.cache/street/tiny/logits/c.1.0.0.0"
    victim.write_bytes(victim.read_bytes()[::-1])
    damaged = document("cache verify RUN --repair", run_file)
    assert keys(damaged["faults"]) == FAULT
    assert damaged["faults"][0].items() >= {
        "source": "street", "set": "tiny", "shard": 1, "array": "street/tiny/logits",
    }.items()  # fmt: skip
    assert "withdrew street/tiny, shard 1" in damaged["repaired"]
