"""Passwords in tracking URIs are never printed."""

from __future__ import annotations

import pytest

from shards.support.command import without_password
from sweep.journal.mlflow_page import compare_lines
from sweep.journal.mlflow_uri import check_tracking_uri


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000", "http://me:***@host:5000"),
        ("https://me:se@cret@host/a", "https://me:***@host/a"),
        ("postgresql://me:se/cret@host/db", "postgresql://me:***@host/db"),
        ("at mysql+pymysql://me:secret@h/d (x)", "at mysql+pymysql://me:***@h/d (x)"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////runs/a:b@c/mlflow.db", "sqlite:////runs/a:b@c/mlflow.db"),
        ("http://me@host", "http://me@host"),
    ],
)
def test_a_password_is_masked_and_nothing_else(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_neither_a_command_nor_a_refusal_shows_it() -> None:
    assert "me:***@host:5000" in compare_lines("http://me:secret@host:5000", "1")[0]
    assert "me:***@host/db" in compare_lines("postgresql://me:secret@host/db", "1")[0]
    with pytest.raises(ValueError, match=r"me:\*\*\*@host:no") as caught:
        check_tracking_uri("http://me:secret@host:no")
    assert "secret" not in str(caught.value)
