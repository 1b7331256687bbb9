"""The chart of bench_driver.py: memory and CPU of the process that drives a build or a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    Found = dict[str, Any]

STAGES = {  # of a build's driver, in order
    "open_run": "list the source", "plan_build": "plan", "run_on_ray": "schedule",
    "_demand_there": "look for records", "_save_catalogues": "write the catalogue",
}  # fmt: skip


def ray_seconds(played: Found, costs: Found) -> float:
    """CPU seconds that the counted calls take on a real Ray."""
    by_reference = (costs["wait_2400"] - costs["wait_1"]) / 2399
    microseconds = (
        played["calls of actors"] * costs["call"] + played["gets"] * costs["get"]
        + played["waits"] * costs["wait_1"] + played["references waited for"] * by_reference
    )  # fmt: skip
    return microseconds / 1e6


def draw_driver(path: Path, now: Found, before: Found | None = None) -> None:
    """Draw four charts: memory and seconds by frames, share of a core by workers, and a sweep's."""
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    _memory(axes[0], now["builds"])
    _seconds(axes[1], now["builds"])
    _workers(axes[2], now, before)
    _sweeps(axes[3], now["sweeps"])
    figure.savefig(path, dpi=110)


def _memory(axes: Axes, builds: list[Found]) -> None:
    frames = [one["frames"] for one in builds]
    axes.plot(frames, [one["peak_mb"] for one in builds], marker="o", label="peak of the build")
    axes.plot(frames, [one["before_mb"] for one in builds], ls=":", label="imports alone")
    axes.set(title="Memory of a build's driver", xlabel="frames, 50 a shard", ylabel="MB",
             xscale="log", ylim=(0, None))  # fmt: skip
    axes.legend()


def _seconds(axes: Axes, builds: list[Found]) -> None:
    frames = [one["frames"] for one in builds]
    for stage, label in STAGES.items():
        axes.plot(frames, [one["stages"][stage][1] for one in builds], marker="o", label=label)
    axes.set(title="CPU of a build's driver", xlabel="frames, 50 a shard", ylabel="s",
             xscale="log", yscale="log")  # fmt: skip
    axes.legend()


def _workers(axes: Axes, now: Found, before: Found | None) -> None:
    for found, label in ((before, "before: a call for each"), (now, "one call for all")):
        if found is not None:
            rows = found["workers"]
            share = [
                100 * (one["cpu_s"] + ray_seconds(one, found["ray"])) / one["played_s"]
                for one in rows
            ]
            axes.plot([one["workers"] for one in rows], share, marker="o", label=label)
    axes.set(title="Share of a core that scheduling takes, shards of 60 s", xlabel="workers",
             ylabel="%", xscale="log", yscale="log")  # fmt: skip
    axes.legend()


def _sweeps(axes: Axes, sweeps: list[Found]) -> None:
    trials = [one["trials"] for one in sweeps]
    grown = [one["after_mb"] - one["before_mb"] for one in sweeps]
    axes.plot(trials, [one["cpu_s"] for one in sweeps], marker="o", label="CPU, s")
    axes.plot(trials, grown, marker="o", label="memory grown by, MB")
    axes.set(title="A sweep's driver on Ray Tune", xlabel="trials", ylim=(0, None))
    axes.legend()
