"""Optimisers that do not load torch.compile's parts, which take as long to import as torch itself.

`torch._dynamo` (with sympy: seconds of CPU time and 150 MB in each process) is imported by the
first call of any method of torch's optimisers, so that torch.compile leaves them out. No trial
compiles its optimiser.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, cast

import torch
from torch.optim import Optimizer

METHODS = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


@functools.cache
def eager(kind: type[Optimizer]) -> type[Any]:
    """A class like `kind` whose methods are those that torch wrapped for torch.compile.

    It computes the same, bit for bit. A method that torch does not wrap stays as it is.
    """
    wrapped = {name: inspect.unwrap(getattr(kind, name)) for name in METHODS}
    # One of the wrappers left out is that which switches gradients off.
    step = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[Any]", type(kind.__name__, (kind,), wrapped | {"step": step}))
