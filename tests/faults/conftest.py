"""The small bank of the trainers' tests."""

from tests.trainers.conftest import bank, make

__all__ = ["bank", "make"]
