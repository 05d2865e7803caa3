"""Where a result comes from: the machine and the commit that made it."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def machine() -> dict[str, Any]:
    """The processor, its cores and memory, and the versions that matter."""
    import torch

    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line for line in information.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "instruction set": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def commit() -> str:
    """The commit of the working tree, with `+` where files differ from it."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"])
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode
    return head.decode().strip() + ("+" if changed else "")
