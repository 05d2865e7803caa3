"""`timm:NAME`: an untrained timm backbone, pooled, and one linear layer."""

from __future__ import annotations

import difflib
import functools
from typing import Any

import torch
from torch import nn

from shards.support.without_compiler import import_timm
from trainers.students.base import Student
from trainers.students.cost import on_meta


def timm_student(argument: str, embedding_dim: int, image_size: int) -> Student:
    """The backbone as timm initialises it, and a new linear layer to the embedding.

    Models of a fixed input size (vision transformers) are built for `image_size`.
    Raises: ValueError for a name that timm does not know, or a model that does not map one image
    of this size to one vector.
    """
    import_timm()
    import timm

    names = timm.list_models()
    if argument not in names:
        near = difflib.get_close_matches(argument, names, n=3)
        hint = f"; did you mean {', '.join(f'`{name}`' for name in near)}?" if near else ""
        raise ValueError(
            f"student `timm:{argument}`: timm has no model `{argument}`{hint} "
            "(all: timm.list_models(); a name only, without a tag)"
        )
    pretrained = timm.get_pretrained_cfg(argument)
    fixed = pretrained is not None and pretrained.fixed_input_size
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0}
    options |= {"img_size": image_size} if fixed else {}
    create = functools.partial(timm.create_model, argument, **options)
    try:
        with on_meta(), torch.no_grad():
            features_BF = create().eval()(torch.empty(1, 3, image_size, image_size))
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        native = f", its native size is {pretrained.input_size[-1]}" if pretrained else ""
        raise ValueError(
            f"student `timm:{argument}`: does not take images of image_size {image_size}{native} "
            f"({str(error).strip().splitlines()[0] if str(error).strip() else 'no reason given'})"
        ) from None
    if features_BF.ndim != 2:
        raise ValueError(
            f"student `timm:{argument}`: gives features of shape {tuple(features_BF.shape)} for "
            "one image; choose a model that pools them to one vector"
        )
    return Student(create(), nn.Sequential(nn.Linear(features_BF.shape[1], embedding_dim)))
