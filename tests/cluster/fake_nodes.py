"""A sweep on a Ray whose autoscaler starts nodes of Ray's fake provider, and what nodes there are.

    unshare -p -f --mount-proc --kill-child python -m tests.cluster.fake_nodes FOLDER

Of its two trials one begins when the other one's bank is still being built.

The provider starts each node as further processes of this machine. `ray start` and the provider
expect no other Ray beside them, so all runs in a PID namespace of its own, whose end ends them. The
last line of its output is JSON: the sweep's exit status, how many banks there were when the first
trial had ended, and how many nodes before the sweep, at most, and after it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from shards.bank.manifest import MANIFEST
from tests.cluster.hosts import ROOT
from tests.sweep.two_banks import two_banks

HOST = "127.0.0.1"
OBJECT_STORE = 80 * 1024 * 1024  # bytes, of each node
MOST = 2  # workers, of one core each
IDLE_MINUTES = 0.1
LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
GOES_WITHIN = 120.0  # seconds in which idle nodes are gone


def cluster_file(port: int) -> dict[str, Any]:
    """Ray ships no example of such a file, so all keys that its autoscaler reads are here."""
    worker = {"CPU": 1, "object_store_memory": OBJECT_STORE}
    return {
        "cluster_name": "fake",
        "max_workers": MOST,
        "idle_timeout_minutes": IDLE_MINUTES,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{HOST}:{port}",
            "use_node_id_as_ip": True,  # they share one
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": worker, "node_config": {}, "min_workers": 0, "max_workers": MOST,
            },
        },
        "head_node_type": "ray.head.default",
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in LISTS},
    }  # fmt: skip


def workers() -> int:
    """How many nodes with a core are up."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def main(folder: Path) -> None:
    grid, run = two_banks(folder), folder / "run"
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    file = folder / "fake.yaml"
    file.write_text(json.dumps(cluster_file(port)))
    os.environ |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    os.environ |= {"RAY_enable_autoscaler_v2": "0"}  # as in cluster.yaml
    with tempfile.TemporaryDirectory(prefix="fn-") as temporary:  # socket paths must stay short
        start = ["start", "--head", "--num-cpus=0", f"--node-ip-address={HOST}", f"--port={port}"]
        start += [f"--autoscaling-config={file}", f"--temp-dir={temporary}"]
        start += [f"--object-store-memory={OBJECT_STORE}", "--include-dashboard=false"]
        subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", *start], check=True, stdout=sys.stderr
        )
        ray.init(address=f"{HOST}:{port}", log_to_driver=False)
        before = most = workers()
        command = [sys.executable, "-m", "sweep.run", "--grid", str(grid), "--out", str(run)]
        sweep = subprocess.Popen(
            [*command, "--address", f"{HOST}:{port}"], stdout=sys.stderr, cwd=ROOT
        )
        banks = 0
        while sweep.poll() is None:
            most = max(most, workers())
            if not banks and list(run.glob("trials/*/result.json")):
                banks = len(list(run.glob(f"banks/*/{MANIFEST}")))
                (folder / "gate").touch()
            time.sleep(0.5)
        end = time.monotonic() + GOES_WITHIN
        while (after := workers()) and time.monotonic() < end:
            time.sleep(0.5)
        print(json.dumps([sweep.returncode, banks, before, most, after]), flush=True)
        os._exit(0)  # the namespace's end ends Ray's processes


if __name__ == "__main__":
    main(Path(sys.argv[1]))
