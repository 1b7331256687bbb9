"""What KubeRay's CustomResourceDefinition of a RayJob, ray.io/v1, says of the fields that we set.

Facts of the published schema (KubeRay 1.x): kinds, what is required, and no other keys, as the API
server refuses those where it validates strictly.
"""

from __future__ import annotations

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
INT32: dict[str, Any] = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
TEXTS: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {
    "type": ["integer", "string"],
    "pattern": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}


def record(*required: str, **properties: Any) -> dict[str, Any]:
    """An object with these keys and no others."""
    return {
        "type": "object", "properties": properties, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def listed(item: dict[str, Any]) -> dict[str, Any]:
    """An array."""
    return {"type": "array", "items": item}


CONTAINER = record(
    "name",
    name=TEXT,
    image=TEXT,
    resources=record(limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=listed(record("mountPath", "name", mountPath=TEXT, name=TEXT)),
    envFrom=listed(record(secretRef=record(name=TEXT))),
)
VOLUME = record("name", name=TEXT, persistentVolumeClaim=record("claimName", claimName=TEXT))
TEMPLATE = record(
    spec=record("containers", containers=listed(CONTAINER), volumes=listed(VOLUME))
)  # fmt: skip
HEAD = record("template", rayStartParams=TEXTS, template=TEMPLATE)
WORKERS = record(
    "groupName", "maxReplicas", "minReplicas", "template",
    groupName=TEXT, replicas=INT32, minReplicas=INT32, maxReplicas=INT32, rayStartParams=TEXTS,
    template=TEMPLATE,
)  # fmt: skip
CLUSTER = record(
    "headGroupSpec", rayVersion=TEXT, headGroupSpec=HEAD, workerGroupSpecs=listed(WORKERS)
)
RAY_JOB = record(
    "apiVersion", "kind", "metadata", "spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=record("name", name={**TEXT, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
                    namespace=TEXT),
    spec=record(
        entrypoint=TEXT, shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=INT32, rayClusterSpec=CLUSTER,
    ),
)  # fmt: skip
