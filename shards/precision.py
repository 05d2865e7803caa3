"""In which precision a teacher computes: chosen once, when a bank is planned."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from shards.teachers import Precision, Teacher, open_teacher
from shards.threads import one_core_each

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
    """How many times as fast as float32 this CPU multiplies matrices in bfloat16."""
    pace = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(256, 256, dtype=dtype)
        torch.mm(x, x)
        rounds = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(x, x)
            rounds.append(time.perf_counter() - start)
        pace[dtype] = min(rounds)
    return pace[torch.float32] / pace[torch.bfloat16]


def _measure(teacher: Teacher, inputs: torch.Tensor, device: str) -> tuple[torch.Tensor, float]:
    """Embeddings float64, and seconds of a pass as the build does it: one core each on a CPU."""

    def one(_: int) -> torch.Tensor:
        return teacher.embed(inputs)

    found_BD = one(0).double().cpu()
    with one_core_each(device) as each:
        workers = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS or not rounds:
            list(each(one, range(workers)))
            rounds += 1
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        return found_BD, (time.perf_counter() - start) / rounds
