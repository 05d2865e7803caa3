"""The teacher that ships with the project: a tiny CLIP of handwritten digits (see CARD.md)."""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import Any


@functools.cache
def files() -> tuple[dict[str, Any], str]:
    """Its configuration, not to be changed, and the path of its weights."""
    folder = resources.files(__name__)
    config = json.loads((folder / "config.json").read_text())
    return config, str(folder / "weights.safetensors")
