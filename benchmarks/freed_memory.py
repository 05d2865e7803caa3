"""A training step with and without `keep_freed_memory`, in one run.

    python benchmarks/freed_memory.py
    python benchmarks/freed_memory.py keep 224 4 4        # one way, width 4, four steps
    THP_MEM_ALLOC_ENABLE=1 python benchmarks/freed_memory.py default 224 1 4   # huge pages instead

The paper's student in channels-last layout, cosine loss and Adam on tensors in memory, one thread,
batch 64. Each way runs in a process of its own, for the allocator is a setting of the process.
Reported are CPU seconds of a step, user and system, each the median over steps, and the peak of the
resident set. The heap grows for some steps at first, which the median leaves out. How much of a
trial's step the system takes at each width is measured by benchmarks/train_step.py.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from statistics import median

import torch
from ratios import Ratio, finish
from torch.nn.functional import cosine_similarity, normalize

from shards.support.memory import keep_freed_memory
from trainers.students import build_student

BATCH, DIM = 64, 512
CASES = ((224, 1, 7), (32, 1, 60))  # (pixels, width, steps)


def measure(side: int, width: int, steps: int) -> dict[str, float]:
    """User and system seconds of a step, and MiB at the peak."""
    student = build_student(f"width:{width}", DIM, side, 0).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    images_BCHW = torch.randn(BATCH, 3, side, side).to(memory_format=torch.channels_last)
    target_BD = normalize(torch.randn(BATCH, DIM), dim=-1)
    used = [resource.getrusage(resource.RUSAGE_SELF)]
    for _ in range(steps):
        loss = (1 - cosine_similarity(student(images_BCHW), target_BD, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        used.append(resource.getrusage(resource.RUSAGE_SELF))
    pairs = list(itertools.pairwise(used))
    return {
        "user": median(after.ru_utime - before.ru_utime for before, after in pairs),
        "system": median(after.ru_stime - before.ru_stime for before, after in pairs),
        "mib": used[-1].ru_maxrss / 1024,
    }


def in_a_process(how: str, case: tuple[int, int, int]) -> dict[str, float]:
    command = [sys.executable, __file__, how, *map(str, case)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(arguments: list[str]) -> int:
    if arguments:
        torch.set_num_threads(1)
        if arguments[0] == "keep":
            assert keep_freed_memory()
        print(json.dumps(measure(*map(int, arguments[1:]))))
        return 0
    ratios: list[Ratio] = []
    for case in CASES:
        side, width, _ = case
        default, kept = (in_a_process(how, case) for how in ("default", "keep"))
        before, after = (found["user"] + found["system"] for found in (default, kept))
        size = f"{side} pixels, width {width}"
        systems = f"{kept['system']:.3f} against {default['system']:.3f}"
        both = f"{after:.3f} against {before:.3f} CPU s, of which the system's {systems}"
        what = f"a step that keeps freed memory against the default, {size}"
        ratios.append(Ratio(what, before / after, measured=both))
        what = f"peak memory of such a process against the default, {size}"
        sizes = f"{kept['mib']:,.0f} against {default['mib']:,.0f} MiB"
        ratios.append(Ratio(what, kept["mib"] / default["mib"], None, False, sizes))
    return finish(ratios)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
