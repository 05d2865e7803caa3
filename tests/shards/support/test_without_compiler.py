"""open_clip, timm and torchvision, without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

CODE = """\
import sys
from shards.teachers import open_teacher
import torch

teacher = open_teacher("embedded")
teacher.embed(torch.zeros(2, 3, teacher.preprocess.size, teacher.preprocess.size))
loaded = {"torchvision", "open_clip", "timm"} <= sys.modules.keys()
print(loaded, not {"torch._dynamo", "sympy"} & sys.modules.keys())

from torchvision import tv_tensors
from torchvision.ops import roi_align
boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]
print(roi_align(torch.ones(1, 1, 8, 8), boxes, 2).mean().item())
image = tv_tensors.Image(torch.ones(3, 2, 2))
print(type(tv_tensors.wrap(torch.zeros(3, 2, 2), like=image)).__name__)
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"))
print(torch.compiler.disable(len)([1, 2]), torch._dynamo.utils.__file__.endswith("utils.py"))
"""


def test_a_teacher_opens_without_the_compiler_which_can_still_be_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout.split("\n") == ["True True", "1.0", "Image", "True", "2 True", ""], (
        done.stderr
    )
