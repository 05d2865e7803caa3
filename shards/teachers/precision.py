"""In which precision a teacher computes: chosen once, when a bank is planned."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from shards.support.threads import single_core_map, single_core_pool
from shards.teachers import Precision, Teacher, open_teacher

LEAST_COSINE = 0.9999  # to fp32, for every image of the calibration
LEAST_SPEEDUP = 1.2  # on a CPU; less is not worth the bits
SECONDS = 0.5  # of measuring, each


@dataclass(frozen=True)
class Choice:
    """What was chosen, how many times as fast as fp32 it was, and the least cosine to fp32."""

    precision: Precision
    speedup: float = 1.0
    cosine: float = 1.0


def choose_precision(spec: str, device: str, images_BCHW: torch.Tensor) -> Choice:
    """bf16 (then, on a GPU, fp16) where its embeddings agree with fp32's; on a CPU if faster too.

    `images_BCHW`: uint8 samples of the data set. One model is in memory at a time.
    """
    on_cpu = torch.device(device).type == "cpu"
    if on_cpu and matmul_speedup() < LEAST_SPEEDUP:
        return Choice("fp32")  # no use loading the teacher: this CPU has no fast bf16
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
            del teacher  # before its successor is loaded
            teacher = open_teacher(spec, device)  # a cast loses bits that the next would miss
    return Choice("fp32")


def matmul_speedup() -> float:
    """How many times as fast as float32 a core of this CPU multiplies matrices in bfloat16."""
    with single_core_pool(1) as pool:
        slow, fast = pool.map(_matmul_seconds, (torch.float32, torch.bfloat16))
    return slow / fast


def _matmul_seconds(dtype: torch.dtype) -> float:
    x, rounds = torch.ones(256, 256, dtype=dtype), []
    torch.mm(x, x)
    for _ in range(10):
        start = time.thread_time()
        torch.mm(x, x)
        rounds.append(time.thread_time() - start)
    return min(rounds)


def _measure(teacher: Teacher, inputs: torch.Tensor, device: str) -> tuple[torch.Tensor, float]:
    """Embeddings float64, and seconds of a pass as the build does it: one core each on a CPU.

    There it is the core's own time: what other programs take from it says nothing of bf16.
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
        start, rounds = time.perf_counter(), []
        while time.perf_counter() - start < SECONDS or not rounds:
            rounds += each(one, range(workers))
        return found_BD, min(rounds)
