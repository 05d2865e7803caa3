"""What a sweep says of itself to others on its store."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep.running.holding import holding

PASSWORDS = ("http://me:secret@host:5000", "--tracking-uri=postgresql://me:secret@host/runs")


@pytest.mark.parametrize("argument", PASSWORDS)
def test_no_password_is_written_into_the_store_or_shown(argument: str, tmp_path: Path) -> None:
    argv = ["--grid", "demo", "--tracking-uri", argument]
    with holding(str(tmp_path), argv, join=False):
        written = [file for file in tmp_path.rglob("*") if file.is_file()]
        assert any(b"--grid demo" in file.read_bytes() for file in written)
        assert not any(b"secret" in file.read_bytes() for file in written)
        with (
            pytest.raises(ValueError, match=r"a sweep works on it: .*me:\*\*\*@host") as refused,
            holding(str(tmp_path), argv, join=False),
        ):
            pass
        assert "secret" not in str(refused.value)
