"""A grid of two trials with a bank each, of which one is not built before a file is there."""

from __future__ import annotations

from pathlib import Path

from tests.plugins import write

# An arm whose images are made once a file is there.
WAITS = """\
import time
from pathlib import Path

from shards.arms import ARMS
from shards.arms.base import arm_entry
from shards.arms.ops import RandomCrop


class Waits(RandomCrop):
    def pixels(self, images_BCHW, params_BC):
        while not Path({gate!r}).exists():
            time.sleep(0.05)
        return super().pixels(images_BCHW, params_BC)


ARMS["waits"] = arm_entry("waits", "moved, once a file is there", lambda: (Waits(1),))
"""
# The second part reads other images, so it has a bank of its own.
GRID = """\
name: two-banks
plugins: [mine]
fixed:
  dataset: digits
  teacher: embedded
  student: width:0.5
  train_samples: 200
  test_samples: 60
  epochs: 1
  batch_size: 50
  probes: [spectrum]
  test_arms: []
parts:
  - fixed: {arm: clean}
  - fixed: {arm: waits, train_samples: 100}
"""


def two_banks(folder: Path) -> Path:
    """The grid in `folder`, with its plugin; FOLDER/gate lets the second bank be built."""
    write(folder, WAITS.format(gate=str(folder / "gate")))
    grid = folder / "grid.yaml"
    grid.write_text(GRID)
    return grid
