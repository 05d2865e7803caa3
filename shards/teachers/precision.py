"""The precision of a teacher's forward pass (`--precision auto`), chosen when a bank is planned."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from shards.support.threads import single_core_map, single_core_pool
from shards.teachers import Precision, Teacher, open_teacher

LEAST_COSINE = 0.9999  # between the embeddings in a precision and in fp32, for every image
LEAST_SPEEDUP = 1.2  # on a CPU; a smaller gain does not justify the lost digits
SECONDS = 0.5  # duration of each measurement


@dataclass(frozen=True)
class Choice:
    """The chosen precision, its speed relative to fp32, and its smallest cosine to fp32."""

    precision: Precision
    speedup: float = 1.0
    cosine: float = 1.0


def choose_precision(spec: str, device: str, images_BCHW: torch.Tensor) -> Choice:
    """Choose bf16, or (on a GPU) fp16, if its embeddings agree with those of fp32; else fp32.

    On a CPU it must also be at least LEAST_SPEEDUP times as fast. `images_BCHW`: uint8 samples of
    the data set, (B, 3, H, W). Only one copy of the model is in memory at a time.
    """
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and matmul_speedup() < LEAST_SPEEDUP:
        return Choice("fp32")  # this CPU has no fast bf16, so the teacher need not be loaded
    teacher = open_teacher(spec, device)
    inputs = teacher.preprocess(images_BCHW.to(device))
    reference_BD, pace = _measure(teacher, inputs, device)
    for precision in ("bf16",) if on_cpu else ("bf16", "fp16"):
        teacher.cast(precision)
        found_BD, faster = _measure(teacher, inputs, device)
        cosine = float(torch.cosine_similarity(found_BD, reference_BD).min())
        choice = Choice(precision, pace / faster, cosine)
        if cosine >= LEAST_COSINE and (not on_cpu or choice.speedup >= LEAST_SPEEDUP):
            return choice
        if precision != "fp16" and not on_cpu:
            # A cast loses digits, so the next precision needs the original weights again. The
            # old copy is freed first, so that two never share the memory.
            del teacher
            teacher = open_teacher(spec, device)
    return Choice("fp32")


def matmul_speedup() -> float:
    """The speed of bfloat16 matrix products on one core of this CPU, relative to float32."""
    with single_core_pool(1) as pool:
        slow, fast = pool.map(_matmul_seconds, (torch.float32, torch.bfloat16))
    return slow / fast


def _matmul_seconds(dtype: torch.dtype) -> float:
    x = torch.ones(256, 256, dtype=dtype)
    rounds: list[float] = []
    torch.mm(x, x)  # warm-up: the first call selects a kernel
    for _ in range(10):
        start = time.thread_time()
        torch.mm(x, x)
        rounds.append(time.thread_time() - start)
    return min(rounds)


def _measure(teacher: Teacher, inputs: torch.Tensor, device: str) -> tuple[torch.Tensor, float]:
    """(Embeddings, float64 on the CPU; seconds of the fastest forward pass).

    The pass runs as in a build: on a CPU one batch per core at the same time. CPU time is measured
    then and not wall-clock time, which would include the load from other programs.
    """
    on_cpu = torch.device(device).type == "cpu"
    clock = time.thread_time if on_cpu else time.perf_counter

    def one(_: int) -> float:
        start = clock()
        teacher.embed(inputs)
        if not on_cpu:
            torch.cuda.synchronize()
        return clock() - start

    found_BD = teacher.embed(inputs).double().cpu()
    with single_core_map(device) as each:
        workers = torch.get_num_threads() if on_cpu else 1
        start = time.perf_counter()
        rounds: list[float] = []
        while time.perf_counter() - start < SECONDS or not rounds:
            rounds += each(one, range(workers))
        return found_BD, min(rounds)
