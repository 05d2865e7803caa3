"""A bank computed all over a Ray cluster: one copy of the teachers per GPU, or per CPU core.

The driver publishes shards as they come; each is computed as it would be in one process, so the
bytes are the same. Workers read the data set themselves: a folder must be visible to all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from shards.bank.manifest import Manifest, Packed, Plan
from shards.build import build
from shards.building.embed import Columns, CorruptView, Embedder, Task, Tick
from shards.building.request import Request
from shards.teachers import Precision

AHEAD = 2  # shards that a worker has been given: it never waits for the next
RETRIES = 3  # of a worker that died, and of what it was at
OBJECT_STORE = 512 * 1024 * 1024  # bytes; what does not fit spills to disk


@contextlib.contextmanager
def connected(
    address: str | None, owner: str, cpus: int | None = None, store: int = OBJECT_STORE
) -> Iterator[None]:
    """A Ray to work on; one started here (`address` None) is gone afterwards, with its files.

    So are the files that a killed process left behind which worked for the same `owner`.
    """
    if address is not None:
        ray.init(address=address, log_to_driver=False)
        try:
            yield
        finally:
            ray.shutdown()
        return
    digest = hashlib.sha256(owner.encode()).hexdigest()[:8]
    for left in Path(tempfile.gettempdir()).glob(f"ray-{digest}-*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = tempfile.mkdtemp(prefix=f"ray-{digest}-")  # socket paths must stay short
    ray.init(
        address="local",
        num_cpus=cpus or os.cpu_count() or 1,
        include_dashboard=False,
        object_store_memory=store,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=temporary,
    )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


class Worker:
    """One copy of the teachers.

    Every call says the precisions that were chosen: Ray may start a worker that died again.
    """

    def __init__(self, request: str, device: str) -> None:
        self._asked = (Request.model_validate_json(request), device)
        self._made: Embedder | None = None

    def _embedder(self, precisions: dict[str, Precision]) -> Embedder:
        """Made by the first call: errors in `__init__` would be the actor's death."""
        self._made = self._made or Embedder(*self._asked, precisions)
        return self._made

    def plan(self, precisions: dict[str, Precision]) -> str:
        return self._embedder(precisions).plan.model_dump_json()

    def class_embeddings(self, precisions: dict[str, Precision]) -> tuple[Packed | None, ...]:
        return self._embedder(precisions).class_embeddings()

    def shard(
        self, precisions: dict[str, Precision], task: Task, identity: str
    ) -> tuple[bytes, float]:
        """The shard's tar, and seconds that the teachers alone were at work for it.

        Raises: ValueError where this node sees other data or weights.
        """
        embedder = self._checked(precisions, identity)
        before = embedder.teacher_seconds
        ((_, data),) = embedder.shards([task], lambda images: None)
        return data, embedder.teacher_seconds - before

    def corrupted(
        self, precisions: dict[str, Precision], item: CorruptView, identity: str
    ) -> Columns:
        """One view of the test images under an arm. Raises: as `shard`."""
        embedder = self._checked(precisions, identity)
        ((_, columns),) = embedder.corrupted([item], lambda images: None)
        return columns

    def _checked(self, precisions: dict[str, Precision], identity: str) -> Embedder:
        embedder = self._embedder(precisions)
        if embedder.plan.identity != identity:
            raise ValueError(
                f"node {ray.util.get_node_ip_address()} sees other images or teacher weights than "
                "the first worker; make the same files visible on every node"
            )
        return embedder


class OnRay:
    """Workers on the Ray that is connected, `count` of them (None: as many as there is room)."""

    def __init__(
        self,
        request: Request,
        device: str,
        precisions: dict[str, Precision],
        count: int | None = None,
    ) -> None:
        self._count, self._gpu = count, device != "cpu"
        actor: Any = ray.remote(Worker)
        self._make = actor.options(
            num_cpus=1,
            num_gpus=int(self._gpu),
            max_restarts=RETRIES,
            max_task_retries=RETRIES,
        ).remote
        self._request = request
        self._asked = (request.model_dump_json(), device)
        self._seconds, self._at_work = 0.0, set[Any]()
        self._first = self._make(*self._asked)
        self.plan = Plan.model_validate_json(_get(self._first.plan.remote(precisions)))
        self._chosen = {teacher.spec: teacher.precision for teacher in self.plan.teachers}

    @property
    def teacher_seconds(self) -> float:
        """The mean over the workers that made shards."""
        return self._seconds / max(1, len(self._at_work))

    def class_embeddings(self) -> tuple[Packed | None, ...]:
        return _get(self._first.class_embeddings.remote(self._chosen))

    def shards(self, todo: list[Task], tick: Tick) -> Iterator[tuple[Task, bytes]]:
        """Tasks with their tars, as they are done."""
        for task, (data, seconds) in self._spread(todo, "shard"):
            self._seconds += seconds
            views = self._request.teacher_views(task.split)
            tick((task.stop - task.start) * views * len(self.plan.teachers))
            yield task, data

    def corrupted(
        self, todo: list[CorruptView], tick: Tick
    ) -> Iterator[tuple[CorruptView, Columns]]:
        """Views with the teachers' embeddings, as they are done."""
        for item, columns in self._spread(todo, "corrupted"):
            tick(sum(map(len, columns.values())))
            yield item, columns

    def _spread(self, todo: list[Any], method: str) -> Iterator[tuple[Any, Any]]:
        """What a worker's method gives for each, as it is done."""
        unit = "GPU" if self._gpu else "CPU"  # counted now, when the first worker has its place
        count = self._count or max(1, int(ray.cluster_resources().get(unit, 0)))
        others = [self._make(*self._asked) for _ in range(min(count, len(todo)) - 1)]
        waiting, left = deque(todo), len(todo)
        # A worker that waits for room on the cluster is given nothing to hold back.
        flying: dict[Any, tuple[Any, Any]] = {}
        for worker in (self._first, *others):
            flying[worker.plan.remote(self._chosen)] = (worker, None)

        def give(worker: Any) -> None:
            if waiting:
                task = waiting.popleft()
                call = getattr(worker, method).remote
                reference = call(self._chosen, task, self.plan.identity)
                flying[reference] = (worker, task)

        while left:
            (done,), _ = ray.wait(list(flying), num_returns=1)
            worker, task = flying.pop(done)
            data = _get(done)
            for _ in range(AHEAD if task is None else 1):
                give(worker)
            if task is None:
                continue
            left -= 1
            self._at_work.add(worker)
            yield task, data


def _get(reference: Any) -> Any:
    """Raises: those of the worker, as they were there; RuntimeError where one died for good."""
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
    """Build, or finish, `out` on the Ray at `address` (None: one that is started here)."""
    with connected(address, out):
        return spread(request, out, workers, device)


def spread(
    request: Request, out: str, workers: int | None = None, device: str | None = None
) -> Manifest:
    """The same on the Ray that is connected. `device` None: cuda where it has a GPU by now.

    A cluster that starts its GPUs when they are asked for needs `device="cuda"`.
    """
    device = device or ("cuda" if ray.cluster_resources().get("GPU", 0) else "cpu")

    def workplace(request: Request, device: str, precisions: dict[str, Precision]) -> OnRay:
        return OnRay(request, device, precisions, workers)

    return build(request, out, device, workplace)
