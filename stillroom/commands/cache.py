"""The group `cache` of the command line: stage one. Heavy imports wait until a command runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stillroom.commands.cache_tools import TOOLS
from stillroom.commands.options import CACHE, JSON, RAY, RUN_FILE, SET, example, print_result

DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Print frames, bytes and minutes; write nothing."
)
RUNNER = click.option(
    "--runner",
    type=click.Choice(["inline", "ray"]),
    default="inline",
    show_default=True,
    help="In this process, or by Ray actors; both write the same bytes.",
)
ADDRESS = click.option(
    "--address", metavar="HOST:PORT", help="An existing Ray cluster; implies --runner ray."
)


@click.group()
def cache() -> None:
    """Stage one: build, inspect and check a cache of teacher outputs."""


@cache.command(epilog=example("stillroom cache build examples/camvid.toml --dry-run"))
@RUN_FILE
@SET
@DRY_RUN
@RUNNER
@ADDRESS
@JSON
def build(**options: Any) -> None:
    """Run the teachers over all frames that are not cached yet. Running it again resumes."""
    _build(**options, extend=False)


def _build(
    run_file: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    runner: str,
    address: str | None,
    as_json: bool,
    *,
    extend: bool,
) -> None:
    from stillroom.commands import progress
    from stillroom.commands.show import caches
    from stillroom.pipeline.run_file.loading import load_run

    run = load_run(run_file, overrides)
    if dry_run:
        from stillroom.pipeline.build.estimate import estimate_build

        estimate = estimate_build(run, extend=extend)
        print_result(estimate.to_dict(), caches.estimate(estimate), as_json)
        return
    runner = "ray" if address else runner
    report = progress.build_with_bars(run, runner=runner, address=address, extend=extend)
    path = run.cache.path
    document = {"cache": str(path), **report.to_dict()}
    print_result(document, caches.build_report(path, report), as_json)


@cache.command(
    epilog=example(
        """stillroom cache extend run.toml --set 'cache.artifacts=["logits", "features/stage3"]'"""
    )
)
@RUN_FILE
@SET
@DRY_RUN
@RUNNER
@ADDRESS
@JSON
def extend(**options: Any) -> None:
    """Add to a cache the artifacts, teachers and sources of a run file that it lacks. Resumes.

    Artifacts of a teacher that is cached already go into a set of their own beside it, which every
    other command sees as part of that teacher; nothing is computed or written twice.
    """
    _build(**options, extend=True)


@cache.command(epilog=example("stillroom cache info runs/camvid.cache --bad"))
@CACHE
@SET
@click.option("--bad", is_flag=True, help="List every unusable frame with its reason.")
@JSON
def info(cache_path: str, overrides: tuple[str, ...], bad: bool, as_json: bool) -> None:
    """Say what a cache holds: sets, frames, bytes by artifact, bad frames, fingerprints."""
    from stillroom.commands.show import caches
    from stillroom.pipeline.cache_tools.info import cache_folder, describe_cache

    sets = describe_cache(cache_folder(cache_path, overrides))
    document = {"sets": [one.to_dict() for one in sets]}
    print_result(document, caches.cache_info(sets, bad=bad), as_json)


@cache.command(epilog=example("stillroom cache verify runs/camvid.cache"))
@CACHE
@SET
@click.option("--repair", is_flag=True, help="Withdraw what is damaged, to be built again.")
@RAY
@JSON
def verify(
    cache_path: str,
    overrides: tuple[str, ...],
    repair: bool,
    ray_address: str | None,
    as_json: bool,
) -> None:
    """Check every committed byte: checksums, ranges, coverage. Exit code 1: faults found."""
    from stillroom.commands import progress
    from stillroom.commands.show import caches
    from stillroom.pipeline.cache_tools.info import cache_folder
    from stillroom.pipeline.cache_tools.verify import verify_cache

    folder = cache_folder(cache_path, overrides)
    with progress.Bars() as bars:
        on_shard = bars.counter(f"verify {folder}")
        report = verify_cache(folder, on_shard, repair=repair, ray_address=ray_address)
    print_result(report.to_dict(), caches.verification(report), as_json)
    if report.faults:
        sys.exit(1)


@cache.command(epilog=example("stillroom cache preview examples/camvid.toml --out preview.png"))
@CACHE
@SET
@click.option("--source", help="Only this source; all of them if left out.")
@click.option(
    "--frames", type=click.IntRange(min=1), default=4, show_default=True, help="Rows a source."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True,
    help="PNG; where there are several sets, each has its own, whose name ends in -SOURCE-TEACHER.",
)  # fmt: skip
def preview(
    cache_path: str, overrides: tuple[str, ...], source: str | None, frames: int, out: Path
) -> None:
    """Draw a contact sheet: frame, label, teacher, confidence, pseudo label."""
    from stillroom.pipeline.cache_tools.info import cache_folder
    from stillroom.pipeline.cache_tools.preview import draw_preview

    for path in draw_preview(cache_folder(cache_path, overrides), source, frames, out):
        click.echo(path)


for tool in TOOLS:
    cache.add_command(tool)
