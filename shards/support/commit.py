"""Which commit of this project's code runs."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

CODE = Path(__file__).resolve().parents[2]


@functools.cache
def commit_of_code() -> str:
    """12 digits of the commit, `-dirty` where files differ from it; "" outside a git checkout."""
    if not (CODE / ".git").exists():
        return ""  # installed: git would look in the folders above, which are not ours
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ran = subprocess.run(
            describe, cwd=CODE, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()
