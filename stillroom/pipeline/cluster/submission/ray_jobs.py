"""Jobs of Ray: what is sent to a cluster's dashboard, and sending it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.pipeline.cluster.submission.job import outputs
from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stillroom.pipeline.cluster.submission.job import Job

NOT_SENT = ["/runs", "/.git", "/.venv", "*.cache"]  # of a folder that is uploaded


def request(
    job: Job, *, upload: bool = False, packages: Sequence[str] = (), secrets: Sequence[str] = ()
) -> dict[str, Any]:
    """What `submit_job` of Ray's client is given.

    Args:
        upload: send the job's folder to the cluster, where it is not seen
        packages: that pip installs there first
        secrets: names of this machine's environment variables that the job gets as well

    Raises:
        ConfigError: a variable is not set; an uploaded job that writes below its folder.
    """
    runtime: dict[str, Any] = {}
    if packages:
        runtime["pip"] = list(packages)
    if secrets:
        runtime["env_vars"] = {name: _secret(name) for name in secrets}
    where = [] if upload else ["env", "-C", str(job.folder)]
    if upload:
        _demand_lasting(job)
        runtime |= {"working_dir": str(job.folder), "excludes": NOT_SENT}
    more = job.over_ray  # its actors ask for GPUs themselves
    return {
        "entrypoint": shlex.join([*where, *job.words(*more)]),
        "entrypoint_num_cpus": 1 if more else job.resources.cpus,
        "entrypoint_num_gpus": 0 if more else job.resources.gpus,
        "runtime_env": runtime,
        "metadata": {"name": job.name},
    }


def shown(sent: dict[str, Any]) -> dict[str, Any]:
    """A request to be printed: the same, secrets struck out."""
    runtime = dict(sent["runtime_env"])
    if "env_vars" in runtime:
        runtime["env_vars"] = dict.fromkeys(runtime["env_vars"], "(secret)")
    return {**sent, "runtime_env": runtime}


def submit(sent: dict[str, Any], address: str) -> str:
    """Send a request to the dashboard at an address; return the job's id.

    Raises:
        ConfigError: nothing answers, or the job is refused; also where this Ray was installed
            without `ray[default]`, which submitting needs.
    """
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return str(JobSubmissionClient(address).submit_job(**sent))
    except (RuntimeError, RayError) as error:  # the client's own words name what is not installed
        raise ConfigError(f"Ray at {address} did not take the job: {error}") from error
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"no Ray dashboard at {address!r}: {error}; expected its address, "
            "http://HEAD:8265, as `ray start --head` prints it"
        ) from error


def _secret(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(f"--secret {name}: this environment has no such variable; export it")
    return value


def _demand_lasting(job: Job) -> None:
    """Refuse to write below an uploaded folder, which goes with the job."""
    lost = {
        key: path
        for key, path in outputs(job).items()
        if "://" not in path and not Path(path).is_absolute()
    }
    if lost:
        listing = ", ".join(f"{key} = {path!r}" for key, path in lost.items())
        raise ConfigError(
            f"--upload: {listing} would be written below a copy that Ray removes with the job; "
            "give an absolute path that the cluster shares, or a URL (s3://...)"
        )
