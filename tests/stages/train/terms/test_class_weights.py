"""Terms on labels whose classes weigh differently."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stillroom.commands.show.measures import _class_weights
from stillroom.stages.evaluate.cache_stats import CacheStats
from stillroom.stages.train.losses.cross_entropy import cross_entropy
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.terms.term import Sizes, TermInput
from stillroom.stages.upsample import upsample_logits
from stillroom.storage_specs.errors import ConfigError

SIZES = Sizes(3, {"features/stage4": 6}, {"features/stage4": 4}, {}, names=("sky", "road", "car"))
NAMES = ["cross_entropy", "auxiliary_cross_entropy"]


def term(name="cross_entropy", **section):
    return TypeAdapter(TermConfig).validate_python({"name": name, **section})


@pytest.mark.parametrize("name", NAMES)
def test_weights_go_by_the_names_of_the_classes(name):
    state = term(name, class_weights={"car": 3, "sky": 0.5}).state(SIZES)
    assert state.class_weights.tolist() == [0.5, 1, 3]
    assert not [key for key in state.state_dict() if "class_weights" in key]
    kept = term(name).state(SIZES)
    assert kept is None if name == "cross_entropy" else kept.class_weights is None


def test_they_weigh_the_term():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 8, 10))
    weighted = term(class_weights={"car": 3.0})

    class Given(TermInput):
        stride, features = 2, logits

        def label_map(self):
            return labels

    class Batch:
        labelled = True

    given = Given(weighted, None, Batch(), None, weighted.state(SIZES))
    upsampled, weights = upsample_logits(logits, 2, (8, 10)), torch.tensor([1.0, 1.0, 3.0])
    assert weighted.value(given).equal(cross_entropy(upsampled, labels, class_weights=weights))
    assert not weighted.value(given).isclose(cross_entropy(upsampled, labels))


def test_names_that_are_no_class_and_weights_that_teach_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"term cross_entropy: .* 'bus', .* are sky, road, car"):
        term(class_weights={"bus": 2}).state(SIZES)
    with pytest.raises(ConfigError, match="class_weights are all 0"):
        term(class_weights=dict.fromkeys(SIZES.names, 0)).state(SIZES)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        term(class_weights={"car": -1})


def test_cache_stats_give_the_weights_of_enet_as_a_line_of_the_run_file():
    stats = CacheStats.empty(3, 0)
    assert stats.class_weights(SIZES.names) == {}
    pseudo = np.zeros(256, np.int64)
    pseudo[:3], pseudo[255] = (10, 30, 0), 1000
    stats = replace(stats, pseudo_labels=pseudo)
    expected = [1 / np.log(1.27), 1 / np.log(1.77), 1 / np.log(1.02)]
    assert list(stats.class_weights(SIZES.names).values()) == pytest.approx(expected, abs=0.005)
    labels = np.zeros(256, np.int64)
    labels[1] = 5
    found = replace(stats, labels=labels).class_weights(SIZES.names)
    assert found["road"] == pytest.approx(1 / np.log(2.02), abs=0.005)
    (line, _) = _class_weights(found)
    assert tomllib.loads(line) == {"class_weights": found}
