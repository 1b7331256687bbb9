"""DIST's term, and standardised logits: options that reach the loss."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from stillroom.stages.train.losses.dist import dist
from stillroom.stages.train.losses.pixelwise_kl import pixelwise_kl
from stillroom.stages.train.losses.table import TermConfig
from stillroom.stages.train.terms.logits_term import EnsembleTerm, LogitsTerm

TERMS = TypeAdapter(tuple[TermConfig, ...])


def make(name, **section):
    return TERMS.validate_python([{"name": name, "teacher": "fpn", **section}])[0]


@pytest.mark.parametrize(
    ("name", "loss", "options"),
    [
        ("dist", dist, {"temperature": 2.0, "beta": 2.0, "gamma": 0.5, "epsilon": 0.1}),
        ("dist", dist, {"beta": 0.0}),
        ("pixelwise_kl", pixelwise_kl, {"temperature": 2.0, "standardise": True}),
    ],
)
def test_options_reach_the_loss(make_input, name, loss, options):
    given = make_input(make(name, **options))
    teacher = given.batch.artifacts["fpn/logits"]
    found = given.term.value(given)
    assert found.equal(loss(given.output.logits, teacher, mask=given.mask, **options))
    plain = make_input(make(name))
    assert not plain.term.value(plain).equal(found)


def test_dist_may_learn_from_the_mean_of_teachers(make_input):
    section = {"name": "dist", "mean_of": {"fpn": 1.0, "psp": 2.0}}
    given = make_input(TERMS.validate_python([section])[0])
    assert given.term.value(given) > 0


def test_a_new_term_between_logits_needs_them_whole_until_it_states_otherwise():
    for kind in (LogitsTerm, EnsembleTerm):
        assert kind(name="new", teacher="fpn").whole_logits()


def test_scale_free_losses_need_the_tail_of_the_classes():
    assert make("dist").whole_logits()
    assert make("pixelwise_kl", standardise=True).whole_logits()
    assert not make("pixelwise_kl").whole_logits()


@pytest.mark.parametrize(
    "section",
    [{"beta": 0, "gamma": 0}, {"beta": -1}, {"epsilon": -1}, {"temperature": 0}],
)
def test_impossible_options_are_refused(section):
    with pytest.raises(ValidationError):
        make("dist", **section)
