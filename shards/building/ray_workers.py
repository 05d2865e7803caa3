"""Build a bank on a Ray cluster, with one copy of the teachers per GPU or CPU core.

The driver writes the shards as they arrive. Each shard is computed exactly as a single process
computes it, so its bytes are the same. Workers read the data set themselves, so a folder of images
must be visible on every node.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from shards.bank.manifest import Manifest, Packed, Plan
from shards.building.build import build
from shards.building.cluster_resources import most
from shards.building.embed import Embedder
from shards.building.executor import Columns, CorruptedView, OnImages, Task
from shards.building.ray_connection import connected
from shards.building.request import Request
from shards.datasets.left_out import report_once, reported
from shards.support.memory import keep_freed_memory
from shards.teachers import Precision

QUEUE_DEPTH = 2  # tasks submitted to a worker at a time, so that it never waits for the driver
RETRIES = 3  # restarts of a worker that died, and retries of the task it was running


class Worker:
    """A Ray actor with one copy of the teachers.

    Every call passes the precisions that the first worker chose. An actor that Ray restarts, or one
    on another node, might choose differently, and the bank's bytes would depend on it.
    """

    def __init__(self, request: str, device: str) -> None:
        self._arguments = (request, device)
        self._opened: Embedder | None = None

    def _embedder(self, precisions: dict[str, Precision]) -> Embedder:
        """The data set and teachers, opened by the first call, and plugins imported by it.

        They are not opened in `__init__`, because Ray treats an exception there as the death of the
        actor: it would retry, and the driver would not receive the exception.
        """
        if self._opened is None:
            keep_freed_memory()
            request, device = self._arguments
            self._opened = Embedder(Request.model_validate_json(request), device, precisions)
        return self._opened

    def plan(self, precisions: dict[str, Precision]) -> str:
        """The bank's plan as JSON."""
        return self._embedder(precisions).plan.model_dump_json()

    def left_out(self) -> list[str]:
        """What the data set does not use, which the worker's stderr shows to nobody."""
        return reported()

    def class_embeddings(self, precisions: dict[str, Precision]) -> tuple[Packed | None, ...]:
        """See `Executor.class_embeddings`."""
        return self._embedder(precisions).class_embeddings()

    def shard(
        self, precisions: dict[str, Precision], task: Task, identity: str
    ) -> tuple[bytes, float]:
        """(The shard's tar file, seconds spent in the teachers).

        Raises: ValueError where this node's images or weights are not those of the plan with hash
        `identity`.
        """
        embedder = self._checked(precisions, identity)
        before = embedder.teacher_seconds
        ((_, data),) = embedder.shards([task], lambda images: None)
        return data, embedder.teacher_seconds - before

    def corrupted(
        self, precisions: dict[str, Precision], view: CorruptedView, identity: str
    ) -> Columns:
        """The teachers' embeddings of one view of the test images. Raises: as `shard`."""
        embedder = self._checked(precisions, identity)
        ((_, columns),) = embedder.corrupted([view], lambda images: None)
        return columns

    def _checked(self, precisions: dict[str, Precision], identity: str) -> Embedder:
        embedder = self._embedder(precisions)
        if embedder.plan.identity != identity:
            raise ValueError(
                f"node {ray.util.get_node_ip_address()} sees other images or teacher weights than "
                "the first worker; make the same files visible on every node"
            )
        return embedder


class RayExecutor:
    """The executor that computes on the connected Ray cluster.

    workers: number of copies of the teachers; None for as many as the cluster has, or can start,
        GPUs or cores.
    """

    def __init__(
        self,
        request: Request,
        device: str,
        precisions: dict[str, Precision],
        workers: int | None = None,
    ) -> None:
        self._workers, self._gpu = workers, device != "cpu"
        actor: Any = ray.remote(Worker)
        self._start_worker = actor.options(
            num_cpus=1,
            num_gpus=int(self._gpu),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        ).remote
        self._request = request
        self._arguments = (request.model_dump_json(), device)
        self._seconds, self._used = 0.0, set[str]()  # names of the workers that computed shards
        self._first = self._start_worker(*self._arguments)
        self.plan = Plan.model_validate_json(_get(self._first.plan.remote(precisions)))
        for line in _get(self._first.left_out.remote()):
            report_once(line)
        self._precisions = {teacher.spec: teacher.precision for teacher in self.plan.teachers}

    @property
    def teacher_seconds(self) -> float:
        """Seconds spent in the teachers, as a mean over the workers that computed shards."""
        return self._seconds / max(1, len(self._used))

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        """See `Executor.class_embeddings`; the first worker computes them."""
        return _get(self._first.class_embeddings.remote(self._precisions))

    def shards(self, tasks: list[Task], on_images: OnImages) -> Iterator[tuple[Task, bytes]]:
        """Yield each task with its tar file, in order of completion."""
        for task, (data, seconds) in self._spread(tasks, "shard"):
            self._seconds += seconds
            views = self._request.teacher_views(task.split)
            on_images((task.stop - task.start) * views * len(self.plan.teachers))
            yield task, data

    def corrupted(
        self, views: list[CorruptedView], on_images: OnImages
    ) -> Iterator[tuple[CorruptedView, Columns]]:
        """Yield each view with the teachers' embeddings, in order of completion."""
        for view, columns in self._spread(views, "corrupted"):
            on_images(sum(map(len, columns.values())))
            yield view, columns

    def _spread(self, tasks: list[Any], method: str) -> Iterator[tuple[Any, Any]]:
        """Distribute calls of `method` over the workers; yields (task, result) as they complete.

        A worker for which no task is left ends at once, and others may use its GPU: Ray ends an
        actor to which no reference is left, so none is kept here.
        """
        unit = "GPU" if self._gpu else "CPU"
        workers = self._workers or max(1, int(most(unit)))
        waiting, left = deque(tasks), len(tasks)
        # A worker gets tasks only after it has answered a first call (task None): one that Ray
        # cannot schedule yet would block the tasks that were submitted to it.
        pending: dict[Any, tuple[Any, Any]] = {}
        for number in range(max(1, min(workers, len(tasks)))):
            worker = self._start_worker(*self._arguments) if number else self._first
            pending[worker.plan.remote(self._precisions)] = (worker, None)

        def submit(worker: Any) -> None:
            if waiting:
                task = waiting.popleft()
                call = getattr(worker, method).remote
                reference = call(self._precisions, task, self.plan.identity)
                pending[reference] = (worker, task)

        while left:
            worker = None  # or the last one to answer would be kept until another one does
            (done,), _ = ray.wait(list(pending), num_returns=1)
            worker, task = pending.pop(done)
            result = _get(done)
            for _ in range(QUEUE_DEPTH if task is None else 1):
                submit(worker)
            if task is None:
                continue
            left -= 1
            self._used.add(worker._actor_id.hex())
            yield task, result


def _get(reference: Any) -> Any:
    """The result of a remote call.

    Raises: the exception that the worker raised; RuntimeError where its retries are used up.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayActorError as error:
        raise RuntimeError(f"a worker died {RETRIES + 1} times: {error}") from None


def build_on_ray(
    request: Request,
    out: str,
    address: str | None = None,
    workers: int | None = None,
    device: str | None = None,
) -> Manifest:
    """Build a bank on the Ray cluster at `address` (None: one started on this machine).

    workers, device: see `build_on_connected_ray`. Raises: as `build`.
    """
    with connected(address, out, plugins=request.plugins):
        return build_on_connected_ray(request, out, workers, device)


def build_on_connected_ray(
    request: Request, out: str, workers: int | None = None, device: str | None = None
) -> Manifest:
    """Build a bank on the Ray cluster that this process is connected to.

    workers: number of copies of the teachers; None for as many as fit on the nodes that are up or
    can be started. device: None for cuda if the cluster has a GPU, or can start a node with one.
    Raises: as `build`.
    """
    device = device or ("cuda" if most("GPU") else "cpu")

    def make_executor(
        request: Request, device: str, precisions: dict[str, Precision]
    ) -> RayExecutor:
        return RayExecutor(request, device, precisions, workers)

    return build(request, out, device, make_executor)
