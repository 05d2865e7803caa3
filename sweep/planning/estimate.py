"""What training would cost: seconds from a short calibration here."""

from __future__ import annotations

import time
from typing import Any

import torch

from trainers.students import build_student


def _seconds(action: Any, least: float = 0.2) -> float:
    """Seconds of one call, after a warm-up, averaged over at least `least` seconds."""
    action()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        action()
        calls += 1
    return (time.perf_counter() - start) / calls


def student_seconds(spec: str, dim: int, side: int, threads: int) -> float:
    """Seconds a training sample takes on this machine's CPU: forward, backward and Adam."""
    batch = 32 if side <= 64 else 4
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model = build_student(spec, dim, side, 0).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters())
        images_BCHW = torch.zeros(batch, 3, side, side)

        def step() -> None:
            optimizer.zero_grad()
            model(images_BCHW).square().mean().backward()
            optimizer.step()

        return _seconds(step) / batch
    finally:
        torch.set_num_threads(before)
