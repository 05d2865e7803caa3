"""Rules for a RayJob of KubeRay. Its schema is checked by Kubernetes.

Kubernetes drops a field that it does not know without a word, so `kubectl apply --dry-run=server
--validate=strict` is worth its while beside these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Job = dict[str, Any]
KUBERAY = "ray.io/v1"


def _cluster(job: Job) -> dict[str, Any]:
    return (job.get("spec") or {}).get("rayClusterSpec") or {}


def _groups(job: Job) -> dict[str, dict[str, Any]]:
    """{name: worker group}."""
    groups = _cluster(job).get("workerGroupSpecs") or []
    return {str(group.get("groupName")): group for group in groups}


def _pods(job: Job) -> dict[str, dict[str, Any]]:
    """{name: spec of the pods} of the head and of every worker group."""
    specs = {"head": _cluster(job).get("headGroupSpec") or {}, **_groups(job)}
    return {name: (spec.get("template") or {}).get("spec") or {} for name, spec in specs.items()}


def _containers(job: Job) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in _pods(job).items():
        for container in pod.get("containers") or [{}]:
            yield name, container


def kind(job: Job) -> Iterator[str]:
    if (job.get("apiVersion"), job.get("kind")) != (KUBERAY, "RayJob"):
        yield f"found {job.get('kind')} of {job.get('apiVersion')}; expected RayJob of {KUBERAY}"


def token(job: Job) -> Iterator[str]:
    auth = _cluster(job).get("authOptions") or {}
    if auth.get("mode") != "token" or not auth.get("secretName"):
        yield "rayClusterSpec.authOptions: give mode: token, and secretName"


def closed(job: Job) -> Iterator[str]:
    head = _cluster(job).get("headGroupSpec") or {}
    if head.get("serviceType", "ClusterIP") != "ClusterIP" or head.get("enableIngress"):
        yield "headGroupSpec: serviceType must be ClusterIP, without enableIngress"


def scales(job: Job) -> Iterator[str]:
    if _cluster(job).get("enableInTreeAutoscaling") is not True:
        yield "rayClusterSpec.enableInTreeAutoscaling must be true, or no worker ever comes"
    if not _groups(job):
        yield "rayClusterSpec.workerGroupSpecs: no worker can ever start"
    for name, group in _groups(job).items():
        if group.get("minReplicas", 0) or group.get("replicas", 0):
            yield f"{name}: replicas and minReplicas must be 0: nothing runs, nothing is billed"
        if not group.get("maxReplicas"):
            yield f"{name}: maxReplicas must be above 0"


def ends(job: Job) -> Iterator[str]:
    if (job.get("spec") or {}).get("shutdownAfterJobFinishes") is not True:
        yield "spec.shutdownAfterJobFinishes must be true: the cluster would be billed on"


def head_runs_no_trial(job: Job) -> Iterator[str]:
    head = _cluster(job).get("headGroupSpec") or {}
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield 'headGroupSpec.rayStartParams: num-cpus must be "0", so that no trial runs there'


def gpus(job: Job) -> Iterator[str]:
    for name, container in _containers(job):
        limits = (container.get("resources") or {}).get("limits") or {}
        if name != "head" and not any(key.endswith("/gpu") for key in limits):
            yield f"{name} has no GPU among its resources.limits"


def image(job: Job) -> Iterator[str]:
    images = {str(container.get("image")) for _, container in _containers(job)}
    found = ", ".join(sorted(images))
    if len(images) != 1:
        yield f"image: found {found}; every pod needs the same one"
    if any(re.search(r"nightly|:latest$|^[^:@]+$", image) for image in images):
        yield f"image: found {found}; name a release's tag or a digest"


def telemetry(job: Job) -> Iterator[str]:
    for name, container in _containers(job):
        env = {entry.get("name"): entry.get("value") for entry in container.get("env") or []}
        if env.get("RAY_USAGE_STATS_ENABLED") != "0":
            yield f'{name}: env RAY_USAGE_STATS_ENABLED must be "0"'


def sweep(job: Job) -> Iterator[str]:
    command = str((job.get("spec") or {}).get("entrypoint"))
    for part in ("sweep.run", "--address auto", "--store", "--gpus-per-trial"):
        if part not in command:
            yield f"spec.entrypoint lacks {part}"


def submitted(job: Job) -> Iterator[str]:
    """The entrypoint reaches the head as it stands in the file.

    KubeRay pastes it behind `ray job submit --` into a script of bash, which runs in a pod of its
    own: variables are expanded there, and what follows `;` or `&&` runs there. Ray quotes each word
    that is left, so the head's shell expands none, unless it is that of `sh -c '...'`.
    """
    spec = job.get("spec") or {}
    if spec.get("submissionMode") == "HTTPMode":
        return  # KubeRay itself sends the entrypoint to the head, where a shell runs it.
    bare = re.sub(r"'[^']*'", "", str(spec.get("entrypoint")).strip())
    for found in re.findall(r"\$(?:\w+|\{\w+\})?|`", bare):
        yield f"spec.entrypoint: {found} is not expanded on the head; write what it stands for"
    for found in re.findall(r"[;&|<>\n]+", re.sub(r'"[^"]*"', "", bare)):
        yield (
            f"spec.entrypoint: what follows {found!r} would not run on the head; "
            "write one command, or sh -c '...'"
        )


def secrets(job: Job) -> Iterator[str]:
    if re.search(r"AKIA[0-9A-Z]{16}|aws_secret|PRIVATE KEY|auth_token", str(job), re.IGNORECASE):
        yield "a credential in the file; use a Secret and a service account"


RULES: tuple[Callable[[Job], Iterator[str]], ...] = (
    *(kind, token, closed, scales, ends, head_runs_no_trial, gpus, image, telemetry, sweep),
    *(submitted, secrets),
)
