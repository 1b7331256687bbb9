"""What a step does beside the values of its terms: parts, scales, memory, a late reading."""

from __future__ import annotations

import pytest
import torch

from stillroom.stages.train import session
from stillroom.stages.train.checkpoint import amp_type, new_learner
from stillroom.stages.train.loop import train
from stillroom.stages.train.metrics import read_metrics
from stillroom.stages.train.step import lr_at, take_step
from stillroom.stages.train.stream import Loader
from stillroom.storage_specs.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def batches_of(job, steps):
    counts = {name: stream.batch for name, stream in job.settings.streams.items()}
    with Loader(job.streams, counts, seed=0, steps=steps) as loader:
        return list(loader)


def without_batch_statistics(job):
    """Each frame's output by itself, so that two halves of a batch are the batch."""
    for module in job.student.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.Dropout2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


ONE_TERM = ({"name": "probability_l2", "teacher": "fpn", "weight": 4.0},)


def test_the_gradients_of_parts_add_up_to_that_of_one_batch(make_job):
    whole = make_job("whole", ONE_TERM, seed=0, streams={"camvid": {"batch": 4}}, steps=2)
    parts = make_job(
        "parts", ONE_TERM, seed=0, streams={"camvid": {"batch": 2}}, steps=2, accumulate=2
    )
    steps = {}
    for job in (whole, parts):
        without_batch_statistics(job)
        learner = new_learner(job.student, job.objective, job.settings, CPU)
        fed = batches_of(job, 2 * job.parts)
        for step in range(2):
            taken = fed[step * job.parts : (step + 1) * job.parts]
            found = take_step(job, learner, taken, 0.1, gradients=True).values()
            learner.step += 1
            steps.setdefault(job.parts, []).append(found)
    assert [one.loss for one in steps[2]] == pytest.approx([one.loss for one in steps[1]])
    assert steps[2][1].terms == pytest.approx(steps[1][1].terms)
    for one, other in zip(whole.student.parameters(), parts.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_in_parts_resumes_and_goes_through_as_many_frames(make_job):
    options = {"accumulate": 2, "streams": {"camvid": {"batch": 2}}, "checkpoint_every": 2}
    whole = make_job("whole", seed=0, steps=4, **options)
    assert whole.epoch(4) == pytest.approx(4 * 4 / 10)
    train(whole)

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_job("half", seed=0, steps=4, on_step=stop, **options))
    train(make_job("half", steps=4, **options))
    one, other = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(folder)]
        for folder in (whole.settings.path, whole.settings.path.with_name("half"))
    )
    assert one == other


class Overflowing:
    """In place of a GradScaler: finds the gradients of chosen steps not finite."""

    def __init__(self, left_out, scale=1024.0):
        self._left_out, self._scale, self.asked = left_out, scale, 0

    def is_enabled(self):
        return True

    def scale(self, loss):
        return loss

    def unscale_(self, optimiser):
        self.asked += 1

    def step(self, optimiser):
        if self.asked not in self._left_out:
            optimiser.step()

    def update(self):
        pass

    def get_scale(self):
        return self._scale

    def state_dict(self):
        return {}


def test_a_step_that_the_scaler_leaves_out_moves_nothing(make_job):
    """No weights, no average, no critic and no memory; the schedule does not go on either."""
    terms = (
        {"name": "cross_entropy"},
        {"name": "holistic", "teacher": "fpn", "weight": 1e-3, "width": 2},
    )
    job = make_job("run", terms, seed=0, ema=0.9, warmup_steps=4)
    learner = new_learner(job.student, job.objective, job.settings, CPU)
    learner.scaler = Overflowing(left_out={2})
    first, second, third = batches_of(job, 3)

    def weights():
        critic = job.objective.states["1"].critic
        return [p.clone() for p in (*learner.student.parameters(), *critic.parameters())]

    def average():
        return [one.clone() for one in learner.ema.student.parameters()]

    def step(batches):
        take_step(job, learner, [batches], lr_at(job, learner.updates)).values()
        learner.step += 1

    def equal(one, other):
        return all(a.equal(b) for a, b in zip(one, other, strict=True))

    step(first)
    before, averaged, rate = weights(), average(), lr_at(job, learner.updates)
    step(second)
    assert equal(weights(), before)
    assert equal(average(), averaged)
    assert (learner.step, learner.skipped, learner.updates) == (2, 1, 1)
    assert lr_at(job, learner.updates) == rate
    step(third)
    assert not equal(weights(), before)
    assert not equal(average(), averaged)
    restored = new_learner(job.student, job.objective, job.settings, CPU)
    restored.restore(learner.state())
    assert restored.skipped == 1


def test_a_scale_below_1_explains_no_infinite_gradient(make_job):
    job = make_job("run", ONE_TERM, seed=0)
    learner = new_learner(job.student, job.objective, job.settings, CPU)
    learner.scaler = Overflowing(left_out={1}, scale=0.5)
    job.student.network.classifier.weight.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(ConfigError, match=r"step 1: the gradient's norm is (nan|inf)"):
        take_step(job, learner, batches_of(job, 1), 0.1)


def test_out_of_memory_is_named_with_what_to_lower(make_job, monkeypatch):
    job = make_job("run")
    term = type(job.objective.terms[1])

    def value(self, given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has ...")

    monkeypatch.setattr(term, "value", value)
    with pytest.raises(
        ConfigError, match=r"in term probability_l2/fpn: CUDA out of memory\..*train\.accumulate"
    ):
        train(job)


def test_the_type_of_a_student_is_that_of_the_run_on_a_gpu_alone(make_job):
    expected = {"auto": torch.float16, "bfloat16": torch.bfloat16, "off": None}
    for amp, dtype in expected.items():
        settings = make_job("run", amp=amp).settings
        assert amp_type(settings, CUDA) == dtype
        assert amp_type(settings, CPU) is None


@pytest.mark.parametrize("every", [1, 4])
def test_numbers_read_a_step_late_are_those_of_their_step(make_job, monkeypatch, every):
    """As on a GPU: whatever needs the weights (a score, a checkpoint) still comes in its place."""
    options = {
        "steps": 6, "ema": 0.9, "gradients_every": 2, "checkpoint_every": 4,
        "validation": {"source": "camvid", "every": every},
    }  # fmt: skip
    told: dict[str, list[tuple[int, float, bool]]] = {"now": [], "late": []}

    def run(name):
        def on_step(p):
            told[name].append((p.step, p.loss, p.scores is not None))

        train(make_job(name, seed=0, on_step=on_step, **options))

    run("now")
    monkeypatch.setattr(session, "reads_late", lambda learner: True)
    run("late")
    assert told["late"] == told["now"]
    assert [step for step, _, _ in told["now"]] == list(range(1, 7))


def test_a_step_that_is_not_read_yet_is_in_a_checkpoint_on_the_way(make_job, monkeypatch):
    """An interruption between two steps, where the last one's numbers are still on their way."""
    monkeypatch.setattr(session, "reads_late", lambda learner: True)

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    options = {"steps": 6, "log_every": 10}
    with pytest.raises(KeyboardInterrupt):
        train(make_job("late", seed=0, on_step=stop, **options))
    path = make_job("late", **options).settings.path / "last.pt"
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 3  # the third was taken when the second was told of
    assert saved["window"]["count"] == 2  # of steps since the line of the first


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_student_trains_alike_and_is_exported_under_its_own_names(make_job):
    from shutil import which

    if which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU: install g++")
    plain = make_job("plain", ONE_TERM, seed=0, steps=2, ema=0.9)
    made = make_job("made", ONE_TERM, seed=0, steps=2, ema=0.9, compile=True)
    results = [train(job) for job in (plain, made)]
    assert results[1].losses == pytest.approx(results[0].losses, rel=1e-4)
    from safetensors.torch import load_file

    one, other = (load_file(result.paths["model"]) for result in results)
    assert one.keys() == other.keys()


def test_values_on_a_cpu_stay_what_they_were(make_job):
    """Two streams, an average, clipping and terms that remember: losses of an earlier revision."""
    terms = (
        {"name": "cross_entropy"},
        {"name": "augmented_pixelwise", "teacher": "fpn"},
        {"name": "holistic", "teacher": "fpn", "weight": 1e-3, "width": 2},
    )
    losses = []
    job = make_job(
        "run", terms, seed=0, steps=4, ema=0.9, warmup_steps=2, optimiser={"lr": 0.05, "clip": 1.0},
        on_step=lambda progress: losses.append(progress.loss),
    )  # fmt: skip
    train(job)
    assert losses == pytest.approx([2.8990285, 2.9013338, 2.8660776, 2.7237594], rel=1e-6)
