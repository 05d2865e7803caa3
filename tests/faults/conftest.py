"""The small bank of the trainers' tests, and what ends after a sweep was killed."""

from tests.sweep.conftest import gone_later
from tests.trainers.conftest import bank, make

__all__ = ["bank", "gone_later", "make"]
