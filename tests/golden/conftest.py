"""The small bank of digits that trials are tested on, and one finished trial on it."""

from tests.trainers.conftest import bank, done, make

__all__ = ["bank", "done", "make"]
