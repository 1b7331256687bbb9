from __future__ import annotations

import json
import random

import pytest
import torch
from safetensors import safe_open

from stillroom.stages.train.checkpoint import export, load_checkpoint, new_learner, save_last
from stillroom.stages.train.ema import Ema
from stillroom.stages.train.losses.auxiliary_cross_entropy import AuxiliaryCrossEntropyTerm
from stillroom.stages.train.objective import Objective
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.terms.term import Sizes
from stillroom.storage_specs.errors import WeightsError

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path):
    return TrainConfig.model_validate(
        {
            "path": tmp_path,
            "streams": {"a": {"batch": 1}},
            "steps": 1,
            "ema": 0.9,
            "optimiser": {"name": "adamw"},
        }
    )


def one_step(learner):
    output = learner.student(torch.rand(2, 3, 16, 16) * 255)
    head = learner.terms["0"](output.features["penultimate"])
    (output.logits.square().mean() + head.square().mean()).backward()
    learner.optimiser.step()
    learner.ema.update(learner.student, learner.step)
    learner.step += 1
    learner.window.add(1.5, {"a/ce": 0.5})


def make_objective():
    """One that trains a head of its own and remembers batch statistics."""
    term = AuxiliaryCrossEntropyTerm(name="auxiliary_cross_entropy", layer="penultimate")
    objective = Objective([term])
    sizes = Sizes(4, {"logits": 4, "features/penultimate": 8}, {"features/penultimate": 4}, {})
    objective.prepare(sizes)
    return objective


def test_a_restored_learner_is_the_one_that_was_saved(tmp_path, make_student, settings):
    objective, other_objective = make_objective(), make_objective()
    learner = new_learner(make_student(0), objective, settings, CPU)
    one_step(learner)
    save_last(tmp_path / "last.pt", learner, {"config": {"lr": 0.5}})
    other = new_learner(make_student(1), other_objective, settings, CPU)
    found = load_checkpoint(tmp_path / "last.pt")
    other.restore(found)
    assert found["config"] == {"lr": 0.5}
    assert (other.step, other.window) == (1, learner.window)
    pairs = [
        (learner.student, other.student),
        (learner.ema.student, other.ema.student),
        (learner.terms, other.terms),
    ]
    for mine, theirs in pairs:
        for name, value in mine.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], value), name
    theirs = other.optimiser.state_dict()["state"]
    for key, state in learner.optimiser.state_dict()["state"].items():
        for name, value in state.items():
            assert torch.equal(theirs[key][name], value)


def test_no_checkpoint_is_none_and_a_damaged_one_is_refused(tmp_path, make_student, settings):
    path = tmp_path / "last.pt"
    assert load_checkpoint(path) is None
    save_last(path, new_learner(make_student(), make_objective(), settings, CPU), {})
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"last\.pt: cannot be read.*remove it"):
            load_checkpoint(path)


def test_a_flipped_bit_anywhere_is_refused_with_what_to_do(tmp_path, make_student, settings):
    path = tmp_path / "last.pt"
    learner = new_learner(make_student(), make_objective(), settings, CPU)
    one_step(learner)
    save_last(path, learner, {})
    whole, flips = path.read_bytes(), random.Random(3)
    places = [*range(0, len(whole), 997), *range(len(whole) - 200, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << flips.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"last\.pt: .*remove it"):
            load_checkpoint(path)


def test_a_checkpoint_of_before_there_was_a_seal_is_read_and_its_members_are_checked(tmp_path):
    """Format 2 ends with torch's archive, which keeps a sum of each member."""
    path = tmp_path / "last.pt"
    torch.save({"format": 2, "step": 5, "student": {"w": torch.arange(1000.0)}}, path)
    assert load_checkpoint(path)["step"] == 5
    whole = path.read_bytes()
    place = whole.index(torch.arange(1000.0).numpy().tobytes()) + 2000
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
    with pytest.raises(WeightsError, match=r"its member .* is damaged"):
        load_checkpoint(path)


def test_a_damaged_best_does_not_send_a_run_back_to_its_beginning(tmp_path):
    (tmp_path / "best.pt").write_bytes(b"?")
    with pytest.raises(WeightsError, match=r"or remove it: the run exports .* its last step"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    torch.save({"format": 1}, tmp_path / "last.pt")
    with pytest.raises(WeightsError, match="expected format 3, found 1"):
        load_checkpoint(tmp_path / "last.pt")


def test_the_average_follows_its_formula(make_student):
    student = make_student(0)
    ema = Ema(student, 0.5)
    name = "network.classifier.weight"
    start = student.state_dict()[name].clone()
    with torch.no_grad():
        student.get_parameter(name).add_(1.0)
    ema.update(student, 0)  # 1/10 is below the decay
    torch.testing.assert_close(ema.student.state_dict()[name], start + 0.9)
    ema.update(student, 1000)
    torch.testing.assert_close(ema.student.state_dict()[name], start + 0.95)
    assert not ema.student.training
    assert not any(p.requires_grad for p in ema.student.parameters())


def test_an_export_is_the_bare_network_with_its_story(tmp_path, make_student):
    student = make_student()
    export(tmp_path / "model.safetensors", student, {"config": {"kind": "smp"}, "step": 3})
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(student.network.state_dict())
        metadata = file.metadata()
    assert json.loads(metadata["config"]) == {"kind": "smp"}
    assert json.loads(metadata["step"]) == 3
    assert metadata["format"] == "pt"
