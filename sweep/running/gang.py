"""The ranks of one trial on as many nodes as its placement group has, one actor for each.

All bundles of a placement group are reserved at once, so gangs never wait for each other with half
of what they need. This runs in the trial's own actor, which Ray starts on the node of the first
rank: it serves the address where the ranks meet, passes the first rank's reports on, and ends all
ranks when one of them ends otherwise than it should. When it dies, Ray ends its ranks' actors, and
the kernel their children.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from shards.support.environment import seconds_of
from sweep.planning.placement import Placement
from sweep.running.rank_host import POLL_SECONDS, News, Rank, RankHost
from trainers.engines import launch
from trainers.engines.launch import LEFT, RankError
from trainers.engines.rendezvous import rendezvous

LOST = -signal.SIGKILL  # stands for the exit status of a rank whose node or actor is gone
# After a rank has lost its connection: how long the others' actors may take to answer, before they
# are taken for lost. It is that loss, and not the broken connection, that decides what follows.
LOST_SECONDS = 30.0
READY_SECONDS = 5.0  # how long actors of the trial before may take to answer
Report = Callable[[dict[str, Any]], None]


class RayLauncher:
    """Starts ranks as `trainers.engines.launch` does, but in this trial's placement group."""

    def __init__(self, placement: Placement, sweep: str) -> None:
        self._placement, self._sweep = placement, sweep

    def __call__(
        self,
        ranks: int,
        arguments: list[str],
        report: Report,
        stop: Callable[[], bool] = lambda: False,
        document: str = "",
    ) -> None:
        """See `Launcher`."""
        group = get_current_placement_group()
        assert group is not None  # this process is the actor of a trial
        hosts = _kept_hosts(group.id, ranks) or self._new_hosts(group, ranks)
        gang = _Gang(hosts, self._sweep)
        try:
            with rendezvous(ray.util.get_node_ip_address()) as meeting:
                gang.run(arguments, meeting, document, report, stop)
        except BaseException as error:
            if isinstance(error, RankError) and gang.end():
                _kept[group.id] = hosts
            else:
                for host in hosts:
                    ray.kill(host)
            raise
        _kept[group.id] = hosts

    def may_try_again(self) -> bool:
        """Whether all actors of ranks that failed are there, for another attempt in their place."""
        group = get_current_placement_group()
        return group is not None and group.id in _kept

    def _new_hosts(self, group: PlacementGroup, ranks: int) -> list[Any]:
        actor: Any = ray.remote(RankHost)
        # A fork is as good as a new process only where its parent has never used a GPU.
        warm = not self._placement.gpus and sys.platform == "linux"
        return [
            actor.options(
                num_cpus=self._placement.cpus,
                num_gpus=self._placement.gpus,
                max_concurrency=2,  # `terminate` while `poll` waits
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=rank
                ),
            ).remote(warm)
            for rank in range(ranks)
        ]


# {placement group: its ranks' actors} of the trial that ended last in this process, for the next
# one, which Tune starts in the same placement group. They die with this process.
_kept: dict[Any, list[Any]] = {}


def _kept_hosts(group: Any, ranks: int) -> list[Any]:
    """The actors that are kept for a placement group, none if one of them does not answer."""
    hosts = _kept.pop(group, [])
    try:
        ray.get([host.ready.remote() for host in hosts], timeout=READY_SECONDS)
        if len(hosts) == ranks:
            return hosts
    except RayError:
        pass
    for host in hosts:
        ray.kill(host)
    return []


class _Gang:
    """The ranks of a trial. A call of each rank's actor is always pending."""

    def __init__(self, hosts: list[Any], sweep: str = "") -> None:
        self._hosts, self._sweep = hosts, sweep
        self._limit = seconds_of(launch.SILENT_VARIABLE, launch.SILENT)
        self._pending: dict[Any, int] = {}  # {answer to come: rank}
        self._answered = dict.fromkeys(range(len(hosts)), time.monotonic())
        self._ended: dict[int, News] = {}
        self._first_left: float | None = None
        self._terminated = False

    def run(
        self,
        arguments: list[str],
        meeting: dict[str, str],
        document: str,
        report: Report,
        stop: Callable[[], bool],
    ) -> None:
        """Run all ranks to their end. Raises: RankError."""
        own = {name: value for name, value in os.environ.items() if name.startswith("DISTIL_")}
        for rank, host in enumerate(self._hosts):
            # Each rank sees the GPU of its own actor alone, as if it were alone on its machine.
            place = {"RANK": rank, "WORLD_SIZE": len(self._hosts)}
            place |= {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
            environment = own | meeting | {name: str(value) for name, value in place.items()}
            start = Rank(
                launch.RANK_CODE, arguments, environment, document, self._limit, self._sweep
            )
            self._pending[host.start.remote(start)] = rank
        while len(self._ended) < len(self._hosts):
            self._take_news(report)
            failed = self._failed()
            if failed:
                raise self._cause(failed, report)
            left = self._left()
            if stop() or left:
                self._terminate()
            if left and self._first_left is None:
                self._first_left = time.monotonic()
            late = time.monotonic() - (self._first_left or time.monotonic())
            if late > launch.LEAVE_SECONDS:
                break
        left = self._left()
        if left:
            raise launch.preemption([self._error(rank) for rank in left])

    def end(self) -> bool:
        """Kill all ranks; whether every actor answers, so that it can serve another attempt."""
        try:
            # With the calls that are pending: they would take the news of the next attempt.
            killed = [host.kill.remote() for host in self._hosts]
            ray.get([*killed, *self._pending], timeout=READY_SECONDS)
        except RayError:
            return False
        return True

    def _take_news(self, report: Report) -> None:
        """Wait a moment for answers, and call the actors again that have answered."""
        answers, _ = ray.wait(list(self._pending), num_returns=1, timeout=POLL_SECONDS)
        for answer in answers:
            rank = self._pending.pop(answer)
            try:
                news = ray.get(answer) or News()
            except RayError:
                news = News(code=LOST, ending="is gone: its node or its process died")
            self._answered[rank] = time.monotonic()
            for line in news.lines if rank == 0 else ():
                launch.pass_on(line, report)
            if news.code is None:
                self._pending[self._hosts[rank].poll.remote()] = rank
            else:
                self._ended[rank] = news
        for rank, when in self._answered.items():
            if rank not in self._ended and time.monotonic() - when > self._limit:
                self._ended[rank] = News(code=LOST, ending=f"did not answer for {self._limit:g} s")

    def _left(self) -> list[int]:
        """Ranks that left: with their state saved, or killed before they could handle SIGTERM."""
        return [
            rank
            for rank, news in self._ended.items()
            if news.code in LEFT or (news.terminated and news.code == -signal.SIGTERM)
        ]

    def _failed(self) -> list[int]:
        left = self._left()
        return [rank for rank, news in self._ended.items() if news.code and rank not in left]

    def _terminate(self) -> None:
        if not self._terminated:
            self._terminated = True
            for rank, host in enumerate(self._hosts):
                if rank not in self._ended:
                    host.terminate.remote()

    def _cause(self, first: list[int], report: Report) -> RankError:
        """The error of the rank that most likely caused the failure."""
        start = time.monotonic()
        waited = 0.0
        while waited < launch.PEER_SECONDS or (
            waited < LOST_SECONDS
            and all(self._error(rank).is_about_connection for rank in self._failed())
            and any(
                when < start and rank not in self._ended for rank, when in self._answered.items()
            )
        ):
            if len(self._ended) == len(self._hosts):
                break
            self._take_news(report)
            waited = time.monotonic() - start
        if waited >= LOST_SECONDS:
            for rank, when in self._answered.items():
                if rank not in self._ended and when < start:
                    self._ended[rank] = News(code=LOST, ending="is gone: it does not answer")
        return launch.likely_cause([self._error(rank) for rank in self._failed()], first)

    def _error(self, rank: int) -> RankError:
        news = self._ended[rank]
        assert news.code is not None
        last = (news.log or ["no message"])[-1].removeprefix("error: ")
        if news.code < 0 and len(news.log) > 1:
            last = " | ".join(line.strip() for line in news.log)
        return RankError(rank, news.code, last, news.ending)
