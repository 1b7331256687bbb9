"""`stillroom sweep`: one cache, many students."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from stillroom.commands.options import (
    ADDRESS,
    JSON,
    RUN_FILE,
    SET,
    example,
    naming_run_file,
    print_result,
)


def _seeds(context: click.Context, option: click.Parameter, given: str | None) -> tuple[int, ...]:
    try:
        return () if given is None else tuple(int(each) for each in given.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{given!r}: expected numbers, as in --seeds 0,1,2") from error


@click.command(epilog=example("stillroom sweep examples/camvid_xie_sweep.toml --dry-run"))
@click.argument("sweep_file", type=click.Path(path_type=Path), metavar="SWEEP.toml")
@SET
@click.option(
    "--only",
    multiple=True,
    metavar="VARIANT",
    help="Train only this variant; may be given more than once.",
)
@click.option("--seeds", callback=_seeds, metavar="N,N", help="Train only with these seeds.")
@click.option(
    "--teachers-only",
    is_flag=True,
    help="Build the cache and score the teachers; train no student.",
)
@click.option(
    "--retrain",
    is_flag=True,
    help="Train changed variants anew; old folders are kept as NAME.before1.",
)
@click.option(
    "--per-class", is_flag=True, help="Also the IoU of every class, as a table and a PNG."
)
@click.option("--dry-run", is_flag=True, help="List what is done and what is to do; begin nothing.")
@ADDRESS
@JSON
def sweep(
    sweep_file: Path,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    seeds: tuple[int, ...],
    teachers_only: bool,
    retrain: bool,
    per_class: bool,
    dry_run: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """Train every variant of a run with every seed, from one cache, and compare them.

    The cache is built where it is not whole, teachers are scored, students are trained and scored
    each in a process of its own. Running it again goes on: what is done is read.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import sweeps
    from stillroom.pipeline.sweep.file import load_sweep
    from stillroom.pipeline.sweep.run import plan_sweep

    asked = load_sweep(sweep_file, overrides, seeds)
    click.get_current_context().meta[RUN_FILE] = asked.config.run
    plan = plan_sweep(asked, only, seeds, teachers_only=teachers_only)
    if dry_run:
        print_result(plan.to_dict(), sweeps.plan(plan), as_json)
        return
    found = progress.sweep_with_bars(plan, retrain=retrain, per_class=per_class, address=address)
    print_result(found.to_dict(), sweeps.result(found, per_class=per_class), as_json)
    for trial, problem in found.failed.items():
        click.echo(f"error: {trial.name}: {naming_run_file(problem)}", err=True)
    if found.failed:
        sys.exit(2)
