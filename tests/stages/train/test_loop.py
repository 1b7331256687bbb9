from __future__ import annotations

import json
import logging
import os
import signal
import time

import pytest
import torch

from stillroom.stages.train.job import TrainJob
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.open_dataset import open_dataset
from stillroom.stages.train.settings import TrainConfig
from stillroom.stages.train.stream import Loader
from stillroom.storage_specs.errors import CacheCorrupt, CacheMismatch, ConfigError

EVERYTHING = {  # all that a resumed run could get wrong
    "steps": 9,
    "ema": 0.9,
    "warmup_steps": 3,
    "view": {"crop": [16, 20], "scale": [0.8, 1.2], "flip": True},
    "jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
    "optimiser": {"name": "sgd", "lr": 0.05, "encoder_lr_factor": 0.5, "clip": 1.0},
    "streams": {
        "camvid": {"batch": 4, "every": 2},
        "rest": {
            "source": "camvid",
            "batch": 3,
            "every": 2,
            "complement": True,
            "labelled": False,
        },
    },
    "unlabelled_weight": 0.5,
    "log_every": 2,
    "checkpoint_every": 3,
    "gradients_every": 4,
    "validation": {"source": "camvid", "every": 4},
}


def stop_at(step, how=KeyboardInterrupt):
    def on_step(progress):
        if progress.step == step:
            raise how

    return on_step


def lines(job):
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_metrics(job.settings.path)
    ]


def checkpoint(job, name="last"):
    return torch.load(job.settings.path / f"{name}.pt", weights_only=True)


def assert_same_state(one, other, where=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_state(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, list):
        for i, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            assert_same_state(mine, theirs, f"{where}[{i}]")
    elif not where.endswith(("seconds", ".path")):
        assert one == other, where


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(make_job, optimiser):
    options = {**EVERYTHING, "optimiser": {**EVERYTHING["optimiser"], "name": optimiser}}
    whole = make_job("whole", seed=0, **options)
    result = train(whole)
    for stop in (5, 7):
        job = make_job("parts", seed=0 if stop == 5 else None, on_step=stop_at(stop), **options)
        with pytest.raises(KeyboardInterrupt):
            train(job)
        assert checkpoint(job)["step"] == stop
        assert not (job.settings.path / "model.safetensors").exists()
    parts = make_job("parts", **options)
    resumed = train(parts)
    assert lines(parts) == lines(whole)
    assert_same_state(checkpoint(parts), checkpoint(whole))
    assert_same_state(checkpoint(parts, "best"), checkpoint(whole, "best"))
    assert (resumed.losses, resumed.best_score) == (result.losses, result.best_score)
    # The tensors; the metadata holds the run's path.
    assert_same_state(parts.student.state_dict(), whole.student.state_dict())


def test_a_run_with_milestones_frozen_norm_and_rates_of_parts_resumes(make_job):
    moving = {"lr_factors": {"encoder.3": 0.1}, "decay": "kernels"}
    options = {
        **EVERYTHING,
        "optimiser": {**EVERYTHING["optimiser"], **moving},
        "schedule": "milestones",
        "milestones": [3, 6],
        "freeze_norm": "encoder",
    }
    options.pop("poly_power", None)
    whole, rates = make_job("whole", seed=0, on_step=lambda p: rates.append(p.lr), **options), []
    train(whole)
    first = rates[2]
    assert rates[3:6] == pytest.approx([first / 10] * 3)
    assert rates[6:] == pytest.approx([first / 100] * len(rates[6:]))
    assert whole.student.network.encoder[1].running_mean.eq(0).all()
    parts = make_job("parts", seed=0, on_step=stop_at(5), **options)
    with pytest.raises(KeyboardInterrupt):
        train(parts)
    parts = make_job("parts", **options)
    train(parts)
    assert lines(parts) == lines(whole)
    assert_same_state(checkpoint(parts), checkpoint(whole))


def test_a_run_whose_steps_do_not_follow_its_length_may_change_it(make_job):
    options = {**EVERYTHING, "schedule": "constant"}
    options.pop("poly_power", None)
    whole = make_job("whole", seed=0, **options)
    train(whole)
    train(make_job("parts", seed=0, **{**options, "steps": 4}))
    parts = make_job("parts", **options)
    assert not train(parts).already_finished
    assert_same_state(parts.student.state_dict(), whole.student.state_dict())
    assert checkpoint(parts)["config"]["train"]["steps"] == options["steps"]
    with pytest.raises(ConfigError, match=r"has come to step \d+, and the run is to have 4"):
        train(make_job("parts", **{**options, "steps": 4}))
    ramped = {"name": "augmented_pixelwise", "teacher": "fpn", "ramp": "linear"}
    assert make_job("parts", terms=[ramped], **options).follows_length
    assert not make_job("parts", terms=[{**ramped, "ramp": "constant"}], **options).follows_length
    assert make_job("parts", steps=4).follows_length


def test_a_run_that_was_killed_resumes_from_the_last_checkpoint(make_job):
    whole = make_job("whole", seed=0, **EVERYTHING)
    train(whole)
    killed = make_job("killed", seed=0, on_step=stop_at(8, SystemError), **EVERYTHING)
    with pytest.raises(SystemError):
        train(killed)
    assert checkpoint(killed)["step"] == 6
    assert max(line["step"] for line in lines(killed)) == 8
    again = make_job("killed", **EVERYTHING)
    train(again)
    assert lines(again) == lines(whole)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["step", "validation"])
def test_a_signal_waits_for_the_end_of_the_step_and_saves(make_job, where, sent, caplog):
    def press(*_):
        os.kill(os.getpid(), sent)
        return {"miou": 0.5}

    options = {**EVERYTHING, "checkpoint_every": 100}
    if where == "step":
        job = make_job("run", on_step=lambda p: press() if p.step == 4 else None, **options)
    else:
        job = make_job("run", validate_with=press, **options)
    before = signal.getsignal(sent)
    with pytest.raises(KeyboardInterrupt):
        train(job)
    assert checkpoint(job)["step"] == 4
    assert signal.getsignal(sent) is before
    assert "interrupted at step 4 of 9, saved" in caplog.text


def test_the_lines_of_metrics_hold_means_of_every_term(make_job):
    steps = []
    job = make_job("run", on_step=steps.append, **EVERYTHING)
    result = train(job)
    assert [p.step for p in steps] == list(range(1, 10))
    found = [line for line in lines(job) if "loss" in line]
    assert [line["step"] for line in found] == [1, 2, 4, 6, 8, 9]
    names = {f"camvid/{label}" for label in job.objective.labels} | {"rest/probability_l2/fpn"}
    for line, start in zip(found, (0, 1, 2, 4, 6, 8), strict=True):
        window = steps[start : line["step"]]
        assert set(line["terms"]) == names
        assert line["loss"] == pytest.approx(sum(p.loss for p in window) / len(window))
        assert line["epoch"] == pytest.approx(line["step"] * 4 / 5)
    for p in steps:
        labelled = p.terms["camvid/cross_entropy"] + 4 * p.terms["camvid/probability_l2/fpn"]
        labelled += 0.4 * p.terms["camvid/auxiliary_cross_entropy"]
        assert p.loss == pytest.approx(labelled + 0.5 * 4 * p.terms["rest/probability_l2/fpn"])
    assert [line["step"] for line in lines(job) if "scores" in line] == [4, 8, 9]
    assert result.losses == {"loss": found[-1]["loss"], **found[-1]["terms"]}
    assert 0 <= result.wait_seconds <= result.seconds


def test_the_best_validation_is_kept_and_exported(make_job):
    from safetensors.torch import load_file

    weights, scores = [], iter([0.1, 0.7, 0.4, float("nan")])

    def validate(student):
        weights.append({k: v.clone() for k, v in student.network.state_dict().items()})
        return {"miou": next(scores)}

    job = make_job(
        "run", validate_with=validate, steps=8, ema=0.9, validation={"source": "x", "every": 2}
    )
    result = train(job)
    assert (result.best_score, result.best_step) == (0.7, 4)
    assert checkpoint(job, "best")["scores"] == {"miou": 0.7}
    assert_same_state(load_file(result.paths["model"]), weights[1])
    averaged, last = weights[-1], job.student.network.state_dict()
    assert not torch.equal(averaged["classifier.weight"], last["classifier.weight"])


def test_the_best_score_outlives_an_interruption(make_job):
    options = {"steps": 4, "validation": {"source": "x", "every": 1}}
    scores = iter([0.2, 0.9, 0.5, 0.4])

    def validate(student):
        return {"miou": next(scores)}

    with pytest.raises(KeyboardInterrupt):
        train(make_job("run", validate_with=validate, on_step=stop_at(2), **options))
    result = train(make_job("run", validate_with=validate, **options))
    assert (result.best_score, result.best_step) == (0.9, 2)


def test_a_best_checkpoint_that_is_gone_is_not_claimed_for_the_last_weights(make_job, caplog):
    from safetensors import safe_open

    options = {"steps": 3, "validation": {"source": "x", "every": 1}}
    scores = iter([0.2, 0.9, 0.5])

    def validate(student):
        return {"miou": next(scores)}

    with pytest.raises(KeyboardInterrupt):
        train(make_job("run", validate_with=validate, on_step=stop_at(2), **options))
    job = make_job("run", validate_with=validate, **options)
    (job.settings.path / "best.pt").unlink()
    model = train(job).paths["model"]
    with safe_open(model, "pt") as file:
        assert (file.metadata()["step"], file.metadata()["score"]) == ("3", "null")
    assert "best.pt is gone: the model is that of the last step, not of step 2" in caplog.text


def test_validation_is_not_time_that_steps_take(make_job):
    def validate(student):
        time.sleep(0.2)
        return {"miou": 0.5}

    job = make_job("run", validate_with=validate, steps=2, validation={"source": "x", "every": 1})
    began = time.perf_counter()
    result = train(job)
    assert result.seconds < time.perf_counter() - began - 0.4


def test_a_single_value_to_normalise_is_explained(make_job):
    job = make_job("run", steps=2, streams={"camvid": {"batch": 1}}, view={"crop": [4, 4]})
    with pytest.raises(ConfigError, match=r"the student normalises.*batch of 2 or more"):
        train(job)


def test_a_student_trains_in_training_mode_and_is_scored_in_the_other(make_job):
    modes = []
    job = make_job("run", steps=3, validation={"source": "x", "every": 1})
    job.student.network.dropout.register_forward_hook(
        lambda module, *_: modes.append(module.training)
    )
    train(job)
    assert modes == [True, False] * 3


def test_each_stream_is_judged_by_what_the_student_says_of_its_own_frames(make_job):
    seen = []
    job = make_job("run", **{**EVERYTHING, "steps": 1})
    judge = job.objective.values

    def spy(output, batch, student, progress):
        seen.append((batch.stream, output.logits.detach(), output.features["penultimate"].detach()))
        return judge(output, batch, student, progress)

    job.objective.values = spy
    train(job)
    assert [(name, len(logits)) for name, logits, _ in seen] == [("camvid", 4), ("rest", 3)]
    for part in (1, 2):
        rows = torch.cat([one[part] for one in seen]).flatten(1)
        assert len(rows.unique(dim=0)) == 7


def test_without_validation_the_last_weights_are_exported(make_job):
    from safetensors.torch import load_file

    job = make_job("run", steps=2)
    result = train(job)
    assert_same_state(load_file(result.paths["model"]), dict(job.student.network.state_dict()))
    assert (result.best_score, result.best_step) == (None, None)
    assert "best" not in result.paths


def test_a_finished_run_says_so_and_returns_its_result(make_job, caplog):
    first = make_job("run", steps=3, streams={"camvid": {"batch": 4}})
    result = train(first)
    again = make_job("run", steps=3, on_step=stop_at(1, AssertionError))
    with caplog.at_level(logging.INFO):
        found = train(again)
    assert found.already_finished
    assert not result.already_finished
    assert (found.losses, found.steps, found.paths) == (result.losses, 3, result.paths)
    assert "is finished (3 steps); nothing to train" in caplog.text
    assert_same_state(again.student.state_dict(), first.student.state_dict())


def test_another_config_or_another_cache_in_the_folder_is_refused(make_job, tmp_path, make_cache):
    train(make_job("run", steps=2))
    with pytest.raises(ConfigError, match=r"train\.steps   folder 2   run 3") as caught:
        train(make_job("run", steps=3))
    weights = tmp_path / "run" / "model.safetensors"
    assert f'another folder and student.weights = "{weights}"' in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        train(make_job("run", steps=2, seed=1, ema=0.5))
    assert "student.weights" not in str(caught.value)
    train(make_job("run", steps=2, threads=4, log_every=1))
    job = make_job("run", steps=2)
    object.__setattr__(job, "fingerprints", {"camvid/frames": "0" * 64})
    with pytest.raises(CacheMismatch, match="camvid/frames"):
        train(job)


def test_a_run_keeps_what_it_read(make_job):
    job = make_job("run", steps=1)
    train(job)
    found = json.loads((job.settings.path / "fingerprints.json").read_text())
    assert found == job.streams["camvid"].fingerprints
    assert set(found) == {"camvid/frames", "camvid/fpn"}
    assert checkpoint(job)["fingerprints"] == found
    assert json.loads((job.settings.path / "config.json").read_text())["terms"][1]["weight"] == 4


def test_epochs_are_passes_of_the_first_stream(make_job):
    job = make_job("run", steps=None, epochs=2)  # 10 frames by 4
    assert job.steps == 5
    assert job.epoch(5) == 2.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(make_job):
    def poison(progress):
        if progress.step == 5:
            with torch.no_grad():
                job.student.network.classifier.weight.fill_(float("nan"))

    job = make_job("run", steps=9, checkpoint_every=3, on_step=poison)
    with pytest.raises(ConfigError) as caught:
        train(job)
    message = str(caught.value)
    assert "in step 6: the loss is nan" in message
    assert "not finite: camvid/cross_entropy, camvid/probability_l2/fpn" in message
    assert "frames: camvid_" in message
    saved = checkpoint(job)
    assert saved["step"] == 3
    assert all(v.isfinite().all() for v in saved["student"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_change(make_job):
    job = make_job("run", steps=3, checkpoint_every=1)
    weight = job.student.network.classifier.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ConfigError, match=r"step 1: the gradient's norm is (nan|inf)"):
        train(job)
    assert torch.equal(weight, before)
    assert not (job.settings.path / "last.pt").exists()


def test_weights_that_an_update_made_infinite_are_not_saved(make_job):
    def poison(progress):
        if progress.step == 5:  # the next loss would tell, but last.pt is due before it
            job.student.network.encoder[0].bias.register_hook(explode)

    def explode(gradient):
        with torch.no_grad():
            job.student.network.encoder[0].bias.fill_(float("inf"))
        return gradient

    job = make_job("run", steps=9, checkpoint_every=3, on_step=poison)
    with pytest.raises(ConfigError, match="after step 6: the student's weights are not finite"):
        train(job)
    assert checkpoint(job)["step"] == 3


@pytest.mark.slow
def test_processes_that_load_train_what_threads_train(make_job):
    by_threads = train(make_job("threads", seed=0))
    by_processes = train(make_job("processes", seed=0, loader="processes"))
    assert by_processes.losses == by_threads.losses


def test_a_fault_of_the_cache_saves_the_last_whole_step(make_job):
    job = make_job("run", steps=9, checkpoint_every=100)
    data = job.streams["camvid"]
    whole = data.fill

    def fill(batch, place, epoch, frame):
        if epoch == 1 and frame == 0:
            raise CacheCorrupt("bits fell over")
        whole(batch, place, epoch, frame)

    data.fill = fill
    with pytest.raises(CacheCorrupt, match="camvid_000: bits fell over"):
        train(job)
    assert checkpoint(job)["step"] >= 2


def test_bad_rows_are_told(make_job, make_cache, tmp_path, caplog):
    make_cache(tmp_path / "cache", source="holes", bad=(1,), teacher_bad=(3,))
    job = make_job("run", steps=1, streams={"holes": {"batch": 4}})
    assert train(job).skipped == {"holes": 2}
    assert "stream holes: 2 bad rows left out" in caplog.text
    make_cache(tmp_path / "cache", source="hole", bad=(1,))
    train(make_job("other", steps=1, streams={"hole": {"batch": 4}}))
    assert "stream hole: 1 bad row left out" in caplog.text


def test_a_run_that_resumes_says_so_where_it_is_seen(make_job, caplog):
    with pytest.raises(KeyboardInterrupt):
        train(make_job("run", on_step=stop_at(4)))
    assert "resuming" not in caplog.text
    train(make_job("run"))
    told = [record for record in caplog.records if "resuming at step 4 of 6" in record.message]
    assert [record.levelno for record in told] == [logging.WARNING]  # what is lower is not shown


def test_a_student_learns_what_is_in_the_cache(make_job):
    job = make_job("run", seed=1, steps=60, log_every=10, optimiser={"name": "adamw", "lr": 0.02})
    train(job)
    losses = [line["loss"] for line in lines(job) if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]


def test_training_leaves_the_callers_random_numbers_alone(make_job):
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    train(make_job("run", steps=2))
    assert torch.equal(torch.rand(4), wanted)


def test_streams_of_different_sizes_need_a_crop(make_job, make_cache, tmp_path):
    make_cache(tmp_path / "cache", source="small", canvas=(16, 16))
    streams = {"camvid": {"batch": 2}, "small": {"batch": 2}}
    with pytest.raises(ConfigError, match=r"camvid 24x32, small 16x16.*train\.view\.crop"):
        make_job("run", streams=streams)
    train(make_job("run", steps=1, streams=streams, view={"crop": [16, 16]}))


def test_a_job_that_does_not_fit_together_is_refused(make_job):
    job = make_job("run")
    parts = {name: getattr(job, name) for name in job.__dataclass_fields__}
    with pytest.raises(ConfigError, match="same order"):
        TrainJob(**{**parts, "streams": {"other": job.streams["camvid"]}})
    with pytest.raises(ConfigError, match="come together"):
        TrainJob(**{**parts, "validate": dict})
    job.streams["camvid"].out_stride = 8
    with pytest.raises(ConfigError, match="out_stride=4"):
        TrainJob(**parts)


def test_validation_without_the_score_that_decides_is_refused(make_job):
    job = make_job(
        "run", validate_with=lambda _: {"accuracy": 1.0}, validation={"source": "x", "every": 1}
    )
    with pytest.raises(ConfigError, match="gave accuracy, and no 'miou'"):
        train(job)


def test_an_exported_smp_student_is_a_teacher(make_job):
    from stillroom.stages.models.build_teacher import build_teacher
    from stillroom.stages.models.students.families import build_student
    from stillroom.stages.models.students.smp import SmpStudentConfig
    from stillroom.stages.models.teachers.smp import SmpTeacherConfig

    design = {"kind": "smp", "architecture": "FPN", "encoder": "mobilenet_v2"}
    torch.manual_seed(0)
    student = build_student(SmpStudentConfig(**design), 4)
    job = make_job("run", ({"name": "cross_entropy"},))
    parts = {name: getattr(job, name) for name in job.__dataclass_fields__}
    job.streams["camvid"].out_stride = student.stride
    settings = job.settings.model_copy(update={"steps": 1})
    result = train(TrainJob(**{**parts, "student": student, "settings": settings}))
    teacher = build_teacher(
        SmpTeacherConfig(**design, classes=4, weights=result.paths["model"], device="cpu")
    )
    frames = torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        wanted = student.eval()(frames.permute(0, 3, 1, 2).float()).logits
    torch.testing.assert_close(teacher(frames)["logits"], wanted, rtol=1e-4, atol=1e-4)


# what is told of each term


def test_the_gradients_of_terms_are_measured_now_and_then_and_change_nothing(make_job):
    quiet = make_job("quiet", seed=0, steps=5, gradients_every=0)
    measured = make_job("measured", seed=0, steps=5, gradients_every=2)
    train(quiet)
    train(measured)
    assert_same_state(measured.student.state_dict(), quiet.student.state_dict())
    found = [line for line in lines(measured) if "gradients" in line]
    assert [line["step"] for line in found] == [1, 3, 5]  # the first step is a multiple of all
    names = ["camvid/" + term for term in measured.objective.labels]
    assert all(list(line["gradients"]) == names for line in found)
    assert all(norm > 0 for line in found for norm in line["gradients"].values())
    assert not any("gradients" in line for line in lines(quiet))


def test_a_term_that_is_silent_for_long_is_told_once_by_its_name(make_job, caplog, monkeypatch):
    monkeypatch.setattr("stillroom.stages.train.watch.PATIENCE", 3)
    job = make_job("run", steps=8)
    judge = job.objective.values

    def silenced(*seen):
        values = judge(*seen)
        return {k: 0 * v if k.startswith("prob") else v for k, v in values.items()}

    job.objective.values = silenced
    with caplog.at_level(logging.WARNING):
        train(job)
    told = [record.message for record in caplog.records if "has been 0" in record.message]
    assert len(told) == 1
    assert "term camvid/probability_l2/fpn has been 0 in each of the last 3 steps" in told[0]


def test_a_student_is_compared_on_the_grid_of_the_layer_that_a_term_names(make_cache, tmp_path):
    """Features of stride 4 are brought to a grid of 8, as the view does it to the frame."""
    cache = make_cache(tmp_path / "features", features=True)
    settings = TrainConfig.model_validate(
        {
            "path": tmp_path / "run",
            "streams": {"camvid": {"batch": 2}},
            "steps": 1,
            "view": {"crop": [16, 24], "flip": True, "scale": [0.7, 1.4]},
        }
    )
    needs = frozenset({"fpn/features/deep@8", "fpn/logits"})
    dataset = open_dataset(cache, "camvid", settings, needs, 4)
    sample = dataset.sample(0, 3)
    assert sample.artifacts["fpn/features/deep@8"].shape == (5, 2, 3)
    assert sample.artifacts["fpn/logits"].shape == (4, 4, 6)
    assert {stride: mask.shape for stride, mask in sample.masks.items()} == {8: (1, 2, 3)}
    coarse = open_dataset(cache, "camvid", settings, frozenset({"fpn/features/deep"}), 8)
    assert torch.equal(
        coarse.sample(0, 3).artifacts["fpn/features/deep"], sample.artifacts["fpn/features/deep@8"]
    )
    assert torch.equal(coarse.sample(0, 3).mask, sample.masks[8])
    (stacked,) = next(iter(Loader({"camvid": dataset}, {"camvid": 2}, seed=0, steps=1)))
    assert stacked.masks[8].shape == (2, 1, 2, 3)
