"""A bank that does not fit in memory: streamed under a limit that the kernel enforces."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.arms import make_arm
from shards.bank.members import pack
from shards.bank.reader import column_shapes, load_manifest
from shards.bank.stream import StreamedColumn
from shards.bank.writer import BankWriter
from trainers import inputs
from trainers.results.folder import trial_folder
from trainers.runner import run_trial

HERE = Path(__file__).parents[3]
SIDE, EACH, SHARDS = 128, 500, 14  # 344 MB of images

READ = """\
import json, re, resource, sys
from pathlib import Path
import torch
from shards.arms import make_arm
from shards.bank.reader import load_manifest
from shards.bank.splits import load_splits, split_bytes
from trainers.training.data import Data, permutation

def used(field):
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\\s*(\\d+) kB", text, re.M)[1])

bank, limit, arm = sys.argv[1], int(sys.argv[2]), "crop_flip:4"
torch.set_num_threads(1)
manifest = load_manifest(bank)
preprocess = manifest.plan.teachers[0].preprocess
preprocess(torch.zeros(64, 3, 128, 128, dtype=torch.uint8))
before = used("VmRSS")
most = used("VmData") + limit
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
split = load_splits(bank, manifest, "train", (arm,), streaming=True)[arm]
data = Data(split, make_arm(arm), preprocess, torch.device("cpu"))
seen = 0
for images, targets in data.batches(permutation(0, 0, len(data)).split(64), 0):
    seen += len(images)
grown = used("VmHWM") - before
try:
    load_splits(bank, manifest, "train", (arm,))
    resident = "loaded"
except MemoryError:
    resident = "MemoryError"
held = split_bytes(manifest, "train", (arm,))
print(json.dumps({"seen": seen, "grown": grown, "held": held, "resident": resident}))
"""


def large_bank(small: str, out: Path) -> str:
    """Noise of SIDE pixels with the plan and the draws of a small bank, as a build publishes it."""
    plan, rng = load_manifest(small).plan, np.random.default_rng(0)
    counts = {"train": EACH * SHARDS, "test": 10}
    dataset = plan.dataset.model_copy(update={"image_size": SIDE, "counts": counts})
    plan = plan.model_copy(update={"dataset": dataset, "shard_samples": EACH})
    writer = BankWriter(str(out), plan)
    for split, index in [*(("train", i) for i in range(SHARDS)), ("test", 0)]:
        rows = min(EACH, counts[split])
        shapes = column_shapes(plan, split, rows)
        keys = tuple(f"{split}/{index * EACH + row:06d}" for row in range(rows))
        columns = {name: np.zeros(shape) for name, shape in shapes.items() if name != "image"}
        columns["image"] = rng.integers(0, 256, shapes["image"], dtype=np.uint8)
        columns["embedding.0"][..., 0] = columns["norm.0"][...] = 1
        for record in plan.arms[split]:
            views = slice(record.start, record.stop)
            drawn = make_arm(record.arm).draw(plan.seed, keys, record.stop - record.start)
            columns["params"][:, views, : len(record.columns)] = drawn
        writer.publish(split, index, rows, pack(index, columns, keys))
    writer.finish((None,), {})
    return str(out)


@pytest.mark.thorough
def test_a_bank_larger_than_memory_may_be_is_streamed(bank, tmp_path) -> None:
    """150 MB more memory than the program itself uses are enough to stream it, not to load it."""
    limit = 150_000_000
    large = large_bank(bank, tmp_path / "large")
    done = subprocess.run(
        [sys.executable, "-c", READ, large, str(limit)],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["seen"] == EACH * SHARDS
    assert found["held"] > 2 * limit
    assert found["grown"] < limit
    assert found["resident"] == "MemoryError"


def test_a_trial_whose_bank_does_not_fit_in_memory_streams_it(
    bank, done, tmp_path, monkeypatch
) -> None:
    config, root, result, _ = done
    seen, real = [], inputs.load_splits

    def load(*arguments):
        splits = real(*arguments)
        seen.extend(isinstance(s.images_NHWC, StreamedColumn) for s in splits.values())
        return splits

    monkeypatch.setattr(inputs, "load_splits", load)
    monkeypatch.setattr(inputs, "free_memory", lambda: 4096)
    again = run_trial(config, bank, str(tmp_path), device="cpu")
    assert seen == [True] * 4
    assert again.metrics == result.metrics
    files = [
        Path(trial_folder(r, config)) / "student/student.safetensors" for r in (root, str(tmp_path))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()
