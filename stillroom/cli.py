"""The command line: parses, calls the pipeline, prints. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from stillroom import __version__
from stillroom.storage_specs.errors import StillroomError

RUN_FILE = click.argument("run_file", type=click.Path(path_type=Path), metavar="RUN.toml")
SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override one key of the run file, e.g. --set train.seed=1 or --set terms.1.weight=2.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")


class _Commands(click.Group):
    """A group whose commands end on a StillroomError with one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StillroomError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "interrupted; a build or a training run goes on from here when run again", err=True
            )
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Run heavy teachers once, keep what they say, and train small students from the cache.

    First contact, with nothing to download:  stillroom demo
    """


@main.group()
def cache() -> None:
    """Stage one: build, inspect and check a cache of teacher outputs."""


def _example(command: str) -> str:
    return f"\b\nExample:\n  {command}"


@cache.command(epilog=_example("stillroom cache build examples/camvid.toml --dry-run"))
@RUN_FILE
@SET
@click.option("--dry-run", is_flag=True, help="Print frames, bytes and minutes; write nothing.")
@click.option(
    "--runner",
    type=click.Choice(["inline", "ray"]),
    default="inline",
    show_default=True,
    help="In this process, or by Ray actors; both write the same bytes.",
)
@click.option(
    "--address", metavar="HOST:PORT", help="An existing Ray cluster; implies --runner ray."
)
@JSON
def build(
    run_file: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    runner: str,
    address: str | None,
    as_json: bool,
) -> None:
    """Run the teachers over all frames that are not cached yet. Running it again resumes."""
    from stillroom.pipeline import progress, show
    from stillroom.pipeline.run_file import load_run

    run = load_run(run_file, overrides)
    if dry_run:
        from stillroom.pipeline.estimate import estimate_build

        _print(show.estimate(estimate_build(run)), as_json)
        return
    from stillroom.pipeline.build import build as build_cache

    with progress.BuildBars() as bars:
        report = build_cache(
            run,
            runner="ray" if address else runner,
            address=address,
            on_plan=bars.plan,
            on_event=bars.event,
        )
    _print(show.build_report(run.cache.path, report), as_json)


@cache.command(epilog=_example("stillroom cache info runs/camvid.cache --bad"))
@click.argument("cache_path", metavar="CACHE_OR_RUN.toml")
@SET
@click.option("--bad", is_flag=True, help="List every unusable frame with its reason.")
@JSON
def info(cache_path: str, overrides: tuple[str, ...], bad: bool, as_json: bool) -> None:
    """Say what a cache holds: sets, frames, bytes by artifact, bad frames, fingerprints."""
    from stillroom.pipeline import show
    from stillroom.pipeline.inspect_cache import cache_folder, describe_cache

    _print(show.cache_info(describe_cache(cache_folder(cache_path, overrides)), bad=bad), as_json)


@cache.command(epilog=_example("stillroom cache verify runs/camvid.cache"))
@click.argument("cache_path", metavar="CACHE_OR_RUN.toml")
@SET
@click.option("--repair", is_flag=True, help="Withdraw what is damaged, to be built again.")
@JSON
def verify(cache_path: str, overrides: tuple[str, ...], repair: bool, as_json: bool) -> None:
    """Check every committed byte: checksums, ranges, coverage. Exit code 1: faults found."""
    from stillroom.pipeline import progress, show
    from stillroom.pipeline.inspect_cache import cache_folder
    from stillroom.pipeline.verify import verify_cache

    folder = cache_folder(cache_path, overrides)
    with progress.CountBar("verify", folder) as bar:
        verdicts = verify_cache(folder, bar.advance, repair=repair)
    _print(show.verdicts(folder, verdicts), as_json)
    if any(verdict.faults for verdict in verdicts):
        sys.exit(1)


@cache.command(epilog=_example("stillroom cache preview examples/camvid.toml --out preview.png"))
@click.argument("cache_path", metavar="CACHE_OR_RUN.toml")
@SET
@click.option("--source", help="Only this source; all of them if left out.")
@click.option(
    "--frames", type=click.IntRange(min=1), default=4, show_default=True, help="Rows a source."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("preview.png"), show_default=True
)
def preview(
    cache_path: str, overrides: tuple[str, ...], source: str | None, frames: int, out: Path
) -> None:
    """Draw a contact sheet: frame, label, teacher, confidence, pseudo label."""
    from stillroom.pipeline.inspect_cache import cache_folder, draw_preview

    for path in draw_preview(cache_folder(cache_path, overrides), source, frames, out):
        click.echo(path)


@main.command(epilog=_example("stillroom train examples/camvid.toml --set train.seed=1"))
@RUN_FILE
@SET
@JSON
def train(run_file: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Stage two: train a student from the cache. Running it again resumes.

    With no [[terms]] that name a teacher this trains a baseline, or a teacher.
    """
    from stillroom.pipeline import progress, show
    from stillroom.pipeline.run_file import load_run
    from stillroom.pipeline.training import train_run

    run = load_run(run_file, overrides)
    with progress.TrainBar(run.train.path if run.train is not None else "") as bar:
        result = train_run(run, bar.step)
    _print(show.train_result(result), as_json)


@main.command(
    "eval", epilog=_example("stillroom eval runs/camvid-ce examples/camvid.toml --sheet test.png")
)
@click.argument("model", metavar="RUN_OR_CHECKPOINT")
@RUN_FILE
@SET
@click.option("--sheet", type=click.Path(path_type=Path), help="Also draw predictions as a PNG.")
@click.option(
    "--own-upsampling",
    is_flag=True,
    help="Let a teacher's network upsample its logits, as its author will have scored it.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Score only the first frames.")
@JSON
def evaluate(
    model: str,
    run_file: Path,
    overrides: tuple[str, ...],
    sheet: Path | None,
    own_upsampling: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """Score a run folder, a checkpoint, or a teacher of the run file (teacher:NAME).

    The frames are those of [evaluate] in the run file.
    """
    from stillroom.pipeline import progress, show
    from stillroom.pipeline.evaluation import evaluate_model
    from stillroom.pipeline.run_file import load_run

    run = load_run(run_file, overrides)
    with progress.CountBar("eval", model) as bar:
        result = evaluate_model(
            run,
            model,
            own_upsampling=own_upsampling,
            limit=limit,
            sheet=sheet,
            on_frames=bar.advance,
        )
    _print(show.evaluation(result), as_json)


@main.command(epilog=_example("stillroom demo --out runs/demo"))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True,
    help="Folder for the run files, the cache, the runs and the pictures.",
)  # fmt: skip
@SET
@JSON
def demo(out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """The whole path on scenes that it makes itself; under ten minutes on a laptop."""
    from stillroom.pipeline import progress, show
    from stillroom.pipeline.demo import run_demo

    result = run_demo(out, overrides, progress.Narrator())
    _print(show.demo_result(result), as_json)


def _print(shown: Any, as_json: bool) -> None:
    """A report knows itself as text and as a JSON document."""
    if as_json:
        click.echo(json.dumps(shown.document, indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True, markup=False)
        for part in shown.parts:
            console.print(part)
