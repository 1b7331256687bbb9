"""Jobs of Kubernetes: a RayJob, which KubeRay runs on a cluster of its own and takes down after."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING, Any

from stillroom.storage_specs.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stillroom.pipeline.cluster.submission.job import Job

KEPT_SECONDS = 3600  # a finished job, for its logs


def manifest(
    job: Job,
    image: str,
    *,
    claims: Mapping[str, str],
    secrets: Sequence[str] = (),
    namespace: str | None = None,
) -> dict[str, Any]:
    """A RayJob of API version ray.io/v1.

    What spreads has a head without GPUs and `nodes` workers; a student that one process trains is
    on a head alone.

    Args:
        image: of a container with this program and Ray
        claims: where each PersistentVolumeClaim is mounted, by its name
        secrets: names of Secrets, whose keys become environment variables

    Raises:
        ConfigError: no claim is mounted over the job's folder.
    """
    import ray

    if not any(job.folder.is_relative_to(place) for place in claims.values()):
        raise ConfigError(
            f"{job.folder} is not below what is mounted ({', '.join(claims.values()) or 'nothing'})"
            ": what the job writes would go with its container; give --claim NAME=/PATH, and "
            "--folder below it"
        )
    more = job.over_ray
    # KubeRay passes this through a shell of its own: one plain command, without `cd` and `&&`.
    entrypoint = shlex.join(["env", "-C", str(job.folder), *job.words(*more)])
    head = _pod(job, image, claims, secrets, gpus=0 if more else job.resources.gpus)
    cluster: dict[str, Any] = {
        "rayVersion": ray.__version__,
        "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0"}, "template": head},
    }
    if more:
        nodes = job.resources.nodes
        cluster["workerGroupSpecs"] = [
            {
                "groupName": "workers",
                "replicas": nodes,
                "minReplicas": nodes,
                "maxReplicas": nodes,
                "rayStartParams": {},
                "template": _pod(job, image, claims, secrets, gpus=job.resources.gpus),
            }
        ]
    about = {"name": job.name} | ({} if namespace is None else {"namespace": namespace})
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": about,
        "spec": {
            "entrypoint": entrypoint,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "rayClusterSpec": cluster,
        },
    }


def as_yaml(document: Mapping[str, Any]) -> str:
    """The manifest as `kubectl apply -f` reads it."""
    import yaml  # type: ignore[import-untyped]

    return str(yaml.safe_dump(dict(document), sort_keys=False, width=100))


def submit(document: Mapping[str, Any]) -> str:
    """Create the RayJob with kubectl; return what it says.

    Raises:
        ConfigError: there is no kubectl here, or it refuses the job.
    """
    try:
        done = subprocess.run(
            ["kubectl", "create", "-f", "-"], input=as_yaml(document), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise ConfigError(
            "kubectl: not found; install it, or take the manifest of --print to where it is"
        ) from error
    if done.returncode:
        raise ConfigError(f"kubectl refused the job: {done.stderr.strip()}")
    return done.stdout.strip()


def _pod(
    job: Job, image: str, claims: Mapping[str, str], secrets: Sequence[str], *, gpus: int
) -> dict[str, Any]:
    asked: dict[str, Any] = {"cpu": str(job.resources.cpus)}
    if job.resources.memory_gb is not None:
        asked["memory"] = f"{job.resources.memory_gb}Gi"
    if gpus:
        asked["nvidia.com/gpu"] = str(gpus)
    container: dict[str, Any] = {
        "name": "ray",
        "image": image,
        "resources": {"limits": asked, "requests": dict(asked)},
        "volumeMounts": [{"name": name, "mountPath": place} for name, place in claims.items()],
    }
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in secrets]
    volumes = [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]
    return {"spec": {"containers": [container], "volumes": volumes}}
