"""The command line: parses, calls the pipeline, prints. Heavy imports wait until a command runs."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stillroom.commands.cache import cache
from stillroom.commands.doctor import doctor
from stillroom.commands.export import export
from stillroom.commands.init import init
from stillroom.commands.options import (
    ADDRESS,
    JSON,
    SET,
    example,
    naming_run_file,
    print_result,
    with_run,
)
from stillroom.commands.predict import predict
from stillroom.commands.prune import prune
from stillroom.commands.submit import submit
from stillroom.commands.sweep import sweep
from stillroom.storage_specs.errors import StillroomError, StoppedElsewhere
from stillroom.storage_specs.extras import EXTRAS, how_to_install
from stillroom.version import __version__

if TYPE_CHECKING:
    from stillroom.pipeline.run_file.sections import RunConfig


TOLD = (  # what was taken from a model's files, and where it runs: users see it
    "stillroom.pipeline.training",
    "stillroom.stages.models.build_teacher",
    "stillroom.stages.models.weights",
    "stillroom.stages.models.teachers.hf_processor",
)


class _Commands(click.Group):
    """A group whose commands end with one message and exit code 2 on what users can mend."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StoppedElsewhere:
            sys.exit(2)
        except StillroomError as error:
            click.echo(f"error: {naming_run_file(str(error))}", err=True)
            sys.exit(2)
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            what = f"this needs the package {error.name}, which is not installed"
            click.echo(f"error: {what}; {how_to_install(error.name)}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "interrupted; a build or a training run goes on from here when run again", err=True
            )
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Run heavy teachers once, keep their outputs, and train small students from the cache.

    First contact, with nothing to download:  stillroom demo
    """
    # torch's profiler, which reads it when torch is imported, else tells of its start and end.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    for logger in map(logging.getLogger, TOLD):
        if not logger.handlers:
            logger.addHandler(_Echo())
            logger.setLevel(logging.INFO)


class _Echo(logging.Handler):
    """Print records on stderr, whatever stream that is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


main.add_command(cache)
main.add_command(doctor)
main.add_command(export)
main.add_command(init)
main.add_command(predict)
main.add_command(prune)
main.add_command(submit)
main.add_command(sweep)


@main.command(epilog=example("stillroom train examples/camvid.toml --set train.seed=1"))
@with_run
@click.option(
    "--check",
    is_flag=True,
    help="Take three steps, print each term's value, gradient, time and memory; write nothing.",
)
@click.option(
    "--profile",
    is_flag=True,
    help="Take some steps, print where their time goes, and write a trace for torch's profiler.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train on so many devices together, by Ray Train: a GPU each, or CPUs.",
)
@ADDRESS
@JSON
def train(
    run: RunConfig, check: bool, profile: bool, workers: int, address: str | None, as_json: bool
) -> None:
    """Stage two: train a student from the cache. Running it again resumes.

    With no [[terms]] that name a teacher this trains a baseline, or a teacher. `torchrun -m
    stillroom train RUN.toml` trains on several devices too.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import students
    from stillroom.pipeline.training import check_terms, check_workers, profile_training
    from stillroom.stages.train.process_group import is_first

    check_workers(workers, address, measures=check or profile)
    if check:
        found = check_terms(run)
        print_result(asdict(found), students.term_checks(found), as_json)
    elif profile:
        times = profile_training(run)
        print_result(times.to_dict(), students.training_profile(times), as_json)
    else:
        result = progress.train_with_bar(run, workers, address)
        if is_first():
            print_result(result.to_dict(), students.train_result(result), as_json)


def _models(context: click.Context, argument: click.Parameter, given: tuple[str, ...]) -> Any:
    if not given:
        raise click.UsageError(
            "give models and, behind them, the run file whose [evaluate] they are scored on: "
            "stillroom eval RUN_OR_CHECKPOINT... RUN.toml"
        )
    return given


@main.command(
    "eval", epilog=example("stillroom eval runs/camvid-ce examples/camvid.toml --sheet test.png")
)
@click.argument("models", metavar="RUN_OR_CHECKPOINT...", nargs=-1, callback=_models)
@with_run
@click.option(
    "--sheet", type=click.Path(path_type=Path),
    help="Also draw predictions as a PNG, and the errors of the last model.",
)  # fmt: skip
@click.option("--video", is_flag=True, help="Also measure how steady predictions are along clips.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="With --video: draw curves, what changes, the flow, and a film of the first clip.",
)
@click.option(
    "--own-upsampling",
    is_flag=True,
    help="Let a teacher's network upsample its logits, as its authors probably scored it.",
)
@click.option(
    "--size",
    type=click.Choice(["canvas", "own"]),
    help="Score on the canvas, or at the labels' own size; as [evaluate] says if left out.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Score only the first frames.")
@JSON
def evaluate(run: RunConfig, models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score run folders, checkpoints, or teachers of the run file (teacher:NAME).

    The frames are those of [evaluate] in the run file, its clips those of [evaluate].video.
    """
    from stillroom.commands import progress
    from stillroom.commands.show import scores
    from stillroom.pipeline.evaluation import EvaluationOptions, evaluate_models

    with progress.Bars("frames") as bars:
        found = evaluate_models(run, models, EvaluationOptions(**options), bars.advance)
    documents = [one.to_dict() for one in found]
    document = documents[0] if len(found) == 1 else {"models": documents}
    print_result(document, scores.evaluations(found), as_json)


@main.command(epilog=example("stillroom demo --out runs/demo"))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True,
    help="Folder for the run files, the cache, the runs and the pictures.",
)  # fmt: skip
@SET
@JSON
def demo(out: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """The whole path on scenes that it makes itself; under ten minutes on a laptop."""
    from stillroom.commands import progress
    from stillroom.commands.show import students
    from stillroom.pipeline.demo import Steps, run_demo

    steps = Steps(
        progress.build_with_bars,
        progress.train_with_bar,
        progress.evaluate_with_bar,
        progress.stamped_printer(),
    )
    result = run_demo(out, overrides, steps)
    print_result(result.to_dict(), students.demo_result(result), as_json)
