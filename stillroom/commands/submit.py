"""`stillroom submit`: a build, a training or a sweep as a job of a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stillroom.commands.options import SET, example
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from stillroom.pipeline.cluster.submission.job import Job

BELONGS = {  # options to the targets that have a use for them
    "address": ("ray",), "upload": ("ray",), "packages": ("ray",), "sbatch": ("slurm",),
    "at_once": ("slurm",), "image": ("kubernetes",), "claims": ("kubernetes",),
    "namespace": ("kubernetes",), "secrets": ("ray", "kubernetes"),
}  # fmt: skip


def _claims(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> Any:
    pairs = dict(one.partition("=")[::2] for one in given)
    for name, place in pairs.items():
        if not name or not place.startswith("/"):
            raise click.BadParameter(f"{name}={place}: expected NAME=/PATH")
    return pairs


@click.command(
    epilog=example("stillroom submit cache run.toml --to slurm --nodes 4 --gpus 8 --print")
)
@click.argument("command", type=click.Choice(["cache", "train", "sweep"]))
@click.argument("file", type=click.Path(path_type=Path), metavar="RUN_OR_SWEEP.toml")
@SET
@click.option("--to", "target", type=click.Choice(["ray", "slurm", "kubernetes"]), required=True)
@click.option("--print", "only_print", is_flag=True, help="Print what would be sent; send nothing.")
@click.option(
    "--gpus",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="A node; of several a student has a process each.",
)
@click.option("--cpus", type=click.IntRange(min=1), default=4, show_default=True, help="A node.")
@click.option("--memory", "memory_gb", type=click.IntRange(min=1), metavar="GB", help="A node.")
@click.option(
    "--nodes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Machines to spread over; Ray's own cluster has what it has.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where the command runs on the cluster; here if left out.",
)
@click.option("--python", help="The interpreter there; this one for Slurm, else `python`.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="Ray: an environment variable of this machine. Kubernetes: a Secret.",
)
@click.option("--address", metavar="URL", help="Ray: the dashboard, http://HEAD:8265.")
@click.option("--upload", is_flag=True, help="Ray: send the folder, where the cluster lacks it.")
@click.option("--pip", "packages", multiple=True, metavar="PACKAGE", help="Ray: install it there.")
@click.option(
    "--sbatch",
    multiple=True,
    metavar="OPTION",
    help="Slurm: one more of sbatch's, partition=gpu or time=24:00:00.",
)
@click.option("--at-once", type=click.IntRange(min=1), help="Slurm: students at a time.")
@click.option("--image", help="Kubernetes: the container's.")
@click.option(
    "--claim",
    "claims",
    multiple=True,
    callback=_claims,
    metavar="NAME=/PATH",
    help="Kubernetes: mount a PersistentVolumeClaim.",
)
@click.option("--namespace", help="Kubernetes: of the job.")
def submit(
    command: Any,
    file: Path,
    overrides: tuple[str, ...],
    target: str,
    only_print: bool,
    folder: Path,
    python: str | None,
    gpus: int,
    cpus: int,
    memory_gb: int | None,
    nodes: int,
    **options: Any,
) -> None:  # fmt: skip
    """Hand a build, a training or a sweep to Ray, Slurm or Kubernetes.

    The file is checked here first. A job that was stopped goes on when it is submitted again.
    """
    from stillroom.pipeline.cluster.submission.job import Resources, load_job

    for name, value in options.items():
        if value and target not in BELONGS[name]:
            flag = {"packages": "pip", "claims": "claim", "secrets": "secret"}.get(name, name)
            raise ConfigError(
                f"--{flag.replace('_', '-')} is for {' and '.join(BELONGS[name])}, not for {target}"
            )
    python = python or (None if target == "slurm" else "python")
    job = load_job(
        command, file, overrides, folder, python, Resources(gpus, cpus, memory_gb, nodes)
    )
    SEND[target](job, options, only_print)


def _to_ray(job: Job, options: dict[str, Any], only_print: bool) -> None:
    from stillroom.pipeline.cluster.submission import ray_jobs

    if job.resources.nodes > 1:
        raise ConfigError("--nodes is for slurm and kubernetes: a Ray cluster has the nodes it has")
    sent = ray_jobs.request(
        job, upload=options["upload"], packages=options["packages"], secrets=options["secrets"]
    )
    if only_print:
        click.echo(json.dumps(ray_jobs.shown(sent), indent=2))
        return
    address = options["address"]
    if address is None:
        raise ConfigError("--to ray needs --address, of the cluster's dashboard: http://HEAD:8265")
    made = ray_jobs.submit(sent, address)
    click.echo(f"submitted {made}; follow it: ray job logs --follow --address {address} {made}")


def _to_slurm(job: Job, options: dict[str, Any], only_print: bool) -> None:
    from stillroom.pipeline.cluster.submission import slurm

    parts = slurm.scripts(job, options["sbatch"], options["at_once"])
    if only_print:
        for part in parts:
            waits = f"# handed in with --dependency={part.after}:<the job before>\n"
            click.echo((waits if part.after else "") + part.text)
        return
    ids = slurm.submit(job, parts)
    click.echo(f"submitted {', '.join(ids)}; logs are in {job.folder / slurm.LOGS}")


def _to_kubernetes(job: Job, options: dict[str, Any], only_print: bool) -> None:
    from stillroom.pipeline.cluster.submission import kubernetes

    if options["image"] is None:
        raise ConfigError("--to kubernetes needs --image, of a container with stillroom and Ray")
    document = kubernetes.manifest(
        job, options["image"], claims=options["claims"], secrets=options["secrets"],
        namespace=options["namespace"],
    )  # fmt: skip
    click.echo(kubernetes.as_yaml(document) if only_print else kubernetes.submit(document))


SEND = {"ray": _to_ray, "slurm": _to_slurm, "kubernetes": _to_kubernetes}
