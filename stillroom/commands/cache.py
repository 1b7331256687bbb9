"""The group `cache` of the command line: stage one. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stillroom.commands.cache_tools import TOOLS
from stillroom.commands.options import (
    ADDRESS,
    JSON,
    SOURCE,
    example,
    print_result,
    with_cache,
    with_run,
)

if TYPE_CHECKING:
    from stillroom.commands.options import Command
    from stillroom.pipeline.run_file.sections import RunConfig


def _with_build_options(command: Command) -> Command:
    for option in (
        JSON,
        ADDRESS,
        click.option(
            "--runner", type=click.Choice(["inline", "ray"]), default="inline", show_default=True,
            help="In this process, or by Ray actors, as always with --address; the bytes are the "
            "same.",
        ),
        click.option(
            "--dry-run", is_flag=True, help="Print frames, bytes and minutes; write nothing."
        ),
    ):  # fmt: skip
        command = option(command)
    return with_run(command)


@click.group()
def cache() -> None:
    """Stage one: build, inspect and check a cache of teacher outputs."""


@cache.command(epilog=example("stillroom cache build examples/camvid.toml --dry-run"))
@_with_build_options
@click.option(
    "--retry-bad", is_flag=True,
    help="Withdraw every shard with a bad row or label, the reasons printed first, and compute it "
    "again.",
)  # fmt: skip
def build(run: RunConfig, **options: Any) -> None:
    """Run the teachers over all frames that are not cached yet. Running it again resumes."""
    _build(run, **options)


@cache.command(
    epilog=example(
        """stillroom cache extend run.toml --set 'cache.artifacts=["logits", "features/stage3"]'"""
    )
)
@_with_build_options
def extend(run: RunConfig, **options: Any) -> None:
    """Add to a cache the artifacts, teachers and sources of a run file that it lacks. Resumes.

    Artifacts of a teacher that is cached already go into a set of their own beside it, which every
    other command sees as part of that teacher; nothing is computed or written twice.
    """
    _build(run, **options, extend=True)


def _build(
    run: RunConfig,
    *,
    dry_run: bool,
    runner: str,
    address: str | None,
    as_json: bool,
    **which: bool,
) -> None:
    from stillroom.commands import progress
    from stillroom.commands.show import caches

    if dry_run:
        from stillroom.pipeline.build.estimate import estimate_build

        estimate = estimate_build(run, **which)
        print_result(estimate.to_dict(), caches.estimate(estimate), as_json)
        return
    runner = "ray" if address else runner
    report = progress.build_with_bars(run, runner=runner, address=address, **which)
    path = run.cache.path
    document = {"cache": str(path), **report.to_dict()}
    print_result(document, caches.build_report(path, report), as_json)


@cache.command(epilog=example("stillroom cache info runs/camvid.cache --bad"))
@with_cache
@click.option("--bad", is_flag=True, help="List every unusable frame and label with its reason.")
@JSON
def info(folder: Path | str, bad: bool, as_json: bool) -> None:
    """Print what a cache holds: sets, frames, bytes by artifact, what is bad, fingerprints."""
    from stillroom.commands.show import caches
    from stillroom.pipeline.cache_tools.info import describe_cache

    sets = describe_cache(folder)
    document = {"sets": [one.to_dict() for one in sets]}
    print_result(document, caches.cache_info(sets, bad=bad), as_json)


@cache.command(epilog=example("stillroom cache verify runs/camvid.cache"))
@with_cache
@click.option("--repair", is_flag=True, help="Withdraw what is damaged, to be built again.")
@ADDRESS
@JSON
def verify(folder: Path | str, as_json: bool, **options: Any) -> None:
    """Check every committed byte: checksums, ranges, coverage. Exit code 1: faults found."""
    from stillroom.commands import progress
    from stillroom.commands.show import caches
    from stillroom.pipeline.cache_tools.verify import verify_cache

    with progress.Bars() as bars:
        report = verify_cache(folder, bars.counter(f"verify {folder}"), **options)
    print_result(report.to_dict(), caches.verification(report), as_json)
    if report.faults:
        sys.exit(1)


@cache.command(epilog=example("stillroom cache preview examples/camvid.toml --out preview.png"))
@with_cache
@SOURCE
@click.option(
    "--frames", type=click.IntRange(min=1), default=4, show_default=True, help="Rows a source."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True,
    help="PNG; where there are several sets, each has its own, whose name ends in -SOURCE-TEACHER.",
)  # fmt: skip
def preview(folder: Path | str, source: str | None, frames: int, out: Path) -> None:
    """Draw a contact sheet: frame, label, teacher, confidence, pseudo label."""
    from stillroom.commands.quantities import place
    from stillroom.pipeline.cache_tools.preview import draw_preview

    for path in draw_preview(folder, source, frames, out):
        click.echo(place(path))


for tool in TOOLS:
    cache.add_command(tool)
