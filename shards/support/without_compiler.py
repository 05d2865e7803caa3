"""timm and torchvision without torch's compiler, on which most of the time of their import goes.

They import `torch._dynamo` (with sympy: seconds of CPU time and 150 MB in each process) for a few
functions that are not to be compiled, and for one that asks whether boxes can be. Nothing here
compiles them, and what does can still import the compiler later.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import _compile

COMPILER, UTILITIES = "torch._dynamo", "torch._dynamo.utils"


def import_timm() -> None:
    """Import timm, and with it torchvision. Call it before the first import of either."""
    if COMPILER in sys.modules or "timm" in sys.modules:
        return
    # A version that needs more of the compiler is imported, with it, by whoever needs it.
    with contextlib.suppress(ImportError, AttributeError), _stand_ins():
        import timm  # noqa: F401  # pyright: ignore[reportUnusedImport]


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Inside, the compiler's functions that these libraries use load it when they are called.

    `_disable_dynamo` is the decorator that torch has for this itself.
    """
    package, utilities = ModuleType(COMPILER), ModuleType(UTILITIES)
    utilities.__dict__["is_compile_supported"] = _is_compile_supported
    at_once = torch.compiler.disable
    sys.modules |= {COMPILER: package, UTILITIES: utilities}
    torch.compiler.disable = _later
    try:
        yield
    finally:
        torch.compiler.disable = at_once
        del sys.modules[COMPILER], sys.modules[UTILITIES]


def _later(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """`torch.compiler.disable`, which loads the compiler when the function is first called."""
    return _compile._disable_dynamo(fn, recursive)


def _is_compile_supported(device: str) -> bool:
    from torch._dynamo import utils

    return utils.is_compile_supported(device)
