"""Trials placed by Ray Tune: what runs where, what is tried again, what is stopped early.

Which trials are open is not Tune's to know: run folders and records say it, as they do to
`stillroom train`, to a batch job and to a sweep without Ray. So Tune is given the open ones alone,
keeps its own state in a folder that goes with it, and after a kill there is nothing to restore.
`place` knows nothing of students: it takes any Trainable.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.sweep.watch import EndSign, watch_of_tune
from stillroom.stages.train.interrupt import DeferredInterrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stillroom.pipeline.sweep.watch import Listener

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run folder has its own metrics
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it gives trials ten seconds, which a step may take
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the listener is told
}


@dataclass(frozen=True)
class Share:
    """What a trial takes of a node: CPUs, and a part of one GPU."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Rules:
    """How trials are placed.

    Attributes:
        at_once: at most so many run at a time; None is as many as there is room for
        retries: of a trial that raises, or whose node is lost
        scheduler: of Tune's, which may stop trials; None stops none
    """

    at_once: int | None = None
    retries: int = 0
    scheduler: Any = None


def place(
    shares: Mapping[str, Share], trainable: Any, rules: Rules, listen: Listener, **works: Any
) -> dict[str, str]:
    """Run a trial of every name; return the errors of those that raised to the last.

    Ctrl-C and SIGTERM ask the trials to end, wait for them, and raise; the second one at once.

    Args:
        shares: by name, what each trial takes
        trainable: a class of Tune's; each trial's `config["trial"]` is its name. Its `setup` gets
            an `end` beside the `works`: an actor whose `asked` says whether it is to end
        listen: called with a name, "begun", "result", "retried" or "ended", and the result

    Raises:
        KeyboardInterrupt: after all trials that were running have ended.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray
    from ray import tune

    def resources(config: Mapping[str, Any]) -> Any:
        share = shares[config["trial"]]
        asked = {"CPU": share.cpus, "GPU": share.gpus}
        return tune.PlacementGroupFactory([{kind: n for kind, n in asked.items() if n}])

    with (
        tempfile.TemporaryDirectory() as storage,
        contextlib.redirect_stdout(io.StringIO()),  # on which Tune draws what it begins
        DeferredInterrupt() as interrupt,
    ):
        sign = ray.remote(num_cpus=0)(EndSign).remote()
        watch = watch_of_tune(listen, lambda: interrupt.held_back() is not None, sign)
        fitted = tune.Tuner(
            tune.with_resources(tune.with_parameters(trainable, end=sign, **works), resources),
            param_space={"trial": tune.grid_search(list(shares))},
            **_configs(rules, watch, storage),
        ).fit()
        if (held := interrupt.held_back()) is not None:
            raise held
        ended = [fitted[number] for number in range(len(fitted))]
        return {
            one.config["trial"]: _reason(one.error) for one in ended if one.config and one.error
        }


def _configs(rules: Rules, watch: Any, storage: str) -> dict[str, Any]:
    """Return what Tune is told beside its trials."""
    from ray import tune

    return {
        "tune_config": tune.TuneConfig(
            scheduler=rules.scheduler,
            max_concurrent_trials=rules.at_once,
            trial_name_creator=lambda trial: trial.config["trial"],
            trial_dirname_creator=lambda trial: trial.trial_id,  # names may be long
        ),
        "run_config": tune.RunConfig(
            name="sweep",
            storage_path=storage,
            callbacks=[watch],
            stop=watch,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=rules.retries),
            verbose=0,
        ),
    }


def _reason(error: Exception) -> str:
    """Return what a trial raised, without Ray's account of where."""
    cause = getattr(error, "cause", None) or error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
