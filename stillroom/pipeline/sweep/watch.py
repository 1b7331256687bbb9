"""What a driver hears of its trials from Ray Tune, and how it ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Listener = Callable[[str, str, Mapping[str, Any]], None]


class EndSign:
    """What trials look at to see whether they are to end; an actor."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Let them end."""
        self._asked = True

    def asked(self) -> bool:
        """Tell whether they are to end."""
        return self._asked


class Watch:
    """Tells a listener what happens, and stops everything once it is asked to.

    Trials that run then end by themselves, having seen the sign; those that were waiting are not
    begun in their place.
    """

    def __init__(self, listen: Listener, is_asked: Callable[[], bool], sign: Any) -> None:
        self._listen, self._is_asked, self._sign = listen, is_asked, sign
        self._running: set[str] = set()
        self._ending: set[str] | None = None  # those that ran when the sign was given

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps a copy of it, to restore from, which is not done."""
        return {}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Stop no trial for what it reports."""
        return False

    def stop_all(self) -> bool:
        """Stop everything, once those that ran when it was asked for have ended."""
        if self._ending is None and self._is_asked():
            self._ending = set(self._running)
            self._sign.ask.remote()
        return self._ending is not None and not self._ending & self._running

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has begun, maybe again."""
        self._tell(trial, "begun", {})

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial has reported."""
        self._tell(trial, "ended" if result["done"] else "result", result)

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has failed, and begins again."""
        self._tell(trial, "retried", {})

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """A trial has failed for the last time."""
        self._running.discard(trial.config["trial"])

    def _tell(self, trial: Any, kind: str, result: Mapping[str, Any]) -> None:
        name = trial.config["trial"]
        (self._running.add if kind in ("begun", "result") else self._running.discard)(name)
        self._listen(name, kind, result)


def watch_of_tune(listen: Listener, is_asked: Callable[[], bool], sign: Any) -> Any:
    """Return a watch that Tune takes as a callback and as a stopper."""
    from ray import tune

    class TuneWatch(Watch, tune.Callback, tune.Stopper):
        """Of Tune's classes, and nothing more."""

    return TuneWatch(listen, is_asked, sign)
