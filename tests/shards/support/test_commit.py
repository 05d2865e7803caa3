"""The commit of the code that runs, by git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shards.support import commit


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(commit, "CODE", tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_is_that_of_the_checkout_and_says_whether_files_differ(checkout: Path) -> None:
    git(checkout, "init", "-q")
    (checkout / "code.py").write_text("1")
    git(checkout, "add", ".")
    git(checkout, "commit", "-qm", "first")
    git(checkout, "tag", "v1")  # a commit is named by its digits all the same
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert commit.commit_of_code.__wrapped__() == head
    (checkout / "code.py").write_text("2")
    assert commit.commit_of_code.__wrapped__() == f"{head}-dirty"


def test_an_installed_copy_has_none(checkout: Path) -> None:
    """Also within a checkout of something else."""
    git(checkout, "init", "-q")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "first")
    commit.CODE = checkout / "site-packages"
    commit.CODE.mkdir()
    assert commit.commit_of_code.__wrapped__() == ""
