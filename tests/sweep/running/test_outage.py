"""A sweep whose object store fails for two minutes, in every way in turn, loses no trial."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from shards.support import storage
from tests.s3_server import serve_store
from trainers.results.folder import begun
from trainers.results.trial_journal import read_rows

pytestmark = [pytest.mark.ray, pytest.mark.store, pytest.mark.faults, pytest.mark.slow]

OUTAGE = 125.0  # seconds
EPOCHS = 600  # of some hundredths of a second each
KINDS = ("500", "slow down", "reset", "silent", "expired")


def epochs(url: str) -> dict[str, list[int]]:
    """{trial: times of its epochs, in milliseconds} of those that have trained one."""
    rows = {trial: read_rows(f"{url}/trials/{trial}") for trial in begun(url)}
    times = {
        trial: [row["time_ms"] for row in found if row["event"] == "epoch"]
        for trial, found in rows.items()
    }
    return {trial: found for trial, found in times.items() if found}


@pytest.mark.timeout(1200)
def test_two_minutes_without_the_store_cost_no_trial(
    grid: Path, tools: Any, tmp_path: Path
) -> None:
    with serve_store("outage") as store:
        url = f"{store.url}/sweep"
        options = ["--store", url, "--cpus", "1", "--set", f"epochs={EPOCHS}"]
        driver = tools.start(grid, tmp_path / "run", *options)
        log = tmp_path / "run.log"
        end = time.monotonic() + 300
        while not epochs(url) and driver.poll() is None and time.monotonic() < end:
            time.sleep(0.5)
        (trained,) = epochs(url)
        outage = 1000 * time.time()
        for kind in KINDS:
            store.faults.mend()  # requests that hang are let go
            store.faults.fail(kind)
            time.sleep(OUTAGE / len(KINDS))
        store.faults.mend()
        assert driver.wait(timeout=400) == 0, log.read_text()
        assert tools.events(tmp_path / "run", "failed") == [], log.read_text()
        trials = begun(url)
        assert len(trials) == 4
        for trial in trials:
            folder = f"{url}/trials/{trial}"
            assert storage.exists(f"{folder}/result.json")
            events = [row["event"] for row in read_rows(folder)]
            # One attempt each: the outage was waited out, and no process died of it.
            assert events.count("start") == 1, events
            assert not {"failed", "stopped"} & set(events)
        times = epochs(url)[trained]
        # It was in the middle of its training: the same attempt trained before, and went on.
        assert sum(at < outage for at in times) > 0
        assert sum(at > outage for at in times) > 0
        assert len(times) == EPOCHS
