"""The engines give one student: the same batches, the same gradients, the same steps."""

import pytest

from trainers.objectives import OBJECTIVES

NAMES = sorted(OBJECTIVES)
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")


def runs():
    """By name; every one is played by `single` and `ddp`, those in SPLIT by `deepspeed` too."""
    both = {"objective": "cosine+infonce"}
    listed = [{"name": "double", "dtype": "float64", "fields": both}]
    listed += [{"name": "float", "fields": both}]
    listed += [
        {"name": f"of {n}", "dtype": "float64", "steps": 1, "fields": {"objective": n}}
        for n in NAMES
    ]
    return listed
