"""open_clip and timm, without torch's compiler, see `shards.support.without_compiler`."""

from shards.support.without_compiler import import_timm

import_timm()

import open_clip  # noqa: E402
import timm  # noqa: E402

__all__ = ["open_clip", "timm"]
