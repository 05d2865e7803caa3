"""The command, and the function beside it, without a sweep."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import distilsweep
import sweep.run
from distilsweep import commands
from shards.support import storage
from sweep.analysis import frame
from sweep.options import parse_arguments


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every sweep that would have run: its options, its grid's text and whose the process is."""
    seen: list[dict[str, Any]] = []

    def run_command(argv: list[str], owns_process: bool) -> int:
        options = vars(parse_arguments(argv))
        text = Path(options["grid"]).read_text() if options["grid"].endswith(".yaml") else ""
        seen.append(options | {"text": text, "owns_process": owns_process})
        return 0

    monkeypatch.setattr(sweep.run, "_run_command", run_command)
    monkeypatch.setattr(frame, "load", lambda *runs: runs)
    return seen


def test_keywords_are_the_options_of_the_command(calls: list[dict[str, Any]]) -> None:
    loaded = distilsweep.run(
        {"name": "mine", "fixed": {"epochs": 1}},
        settings={"arm": "clean"},
        only=["seed=0", "seed=1"],
        retry_failed=False,
        dry_run=False,
        add=True,
        cpus=None,
        gpus_per_trial=0.5,
    )
    ((found,), least) = calls, vars(parse_arguments(["--grid", "x"]))
    assert loaded == ("runs/mine",)
    assert json.loads(found.pop("text")) == {"name": "mine", "fixed": {"epochs": 1}}
    changed = {name: value for name, value in found.items() if value != least.get(name)}
    del changed["grid"]
    assert changed == {
        "settings": ['arm="clean"'],
        "only": ["seed=0", "seed=1"],
        "retry_failed": False,
        "add": True,
        "gpus_per_trial": 0.5,
        "owns_process": False,
    }


def test_wrong_keywords_are_a_value_error(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match="unknown option `retry_faild`; did you mean `retry_f"):
        distilsweep.run("demo", retry_faild=False)
    with pytest.raises(ValueError, match="--cpus 0: ended with status 2; see the error above"):
        distilsweep.run("demo", cpus=0)
    with pytest.raises(ValueError, match="dry_run: a plan has no trials to load; `python -m"):
        distilsweep.run("demo", dry_run=True)
    assert not calls


@pytest.mark.parametrize("main", [sweep.run.main, commands.main], ids=["module", "script"])
def test_a_command_may_replace_its_process(
    main: Any, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ["distilsweep", "run"] if main is commands.main else ["run.py"]
    monkeypatch.setattr(sys, "argv", [*start, "--grid", "demo"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert calls[0]["owns_process"]


@pytest.mark.parametrize(
    ("out", "store", "folder", "found"),
    [
        (None, None, "runs/mine", None),
        ("runs/x", None, "runs/x", None),
        ("runs/x", "s3://bucket/y", "runs/x", "s3://bucket/y"),
        ("s3://bucket/a/x/", None, "runs/x", "s3://bucket/a/x"),
        ("s3://bucket", None, "runs/bucket", "s3://bucket"),
    ],
)
def test_a_url_as_out_is_the_store(
    out: str | None, store: str | None, folder: str, found: str | None
) -> None:
    here = str(Path(folder).resolve())
    assert sweep.run._places("mine", out, store) == (Path(folder), found or here)


@pytest.mark.parametrize(
    ("out", "store", "line"),
    [
        ("s3://bucket/x", "runs/x", "a URL beside --store"),
        ("s3://me:secret@bucket/x", "runs/x", r"s3://me:\*\*\*@bucket/x: a URL beside"),
        ("s3://", None, "--out s3://: no bucket"),
        ("ftp://host/x", None, "scheme `ftp:` is refused"),
    ],
)
def test_a_wrong_out_is_refused(out: str, store: str | None, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        sweep.run._places("mine", out, store)


@pytest.mark.parametrize("option", ["--figures", "--out"])
def test_a_url_where_only_a_folder_works_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option} s3://b/x: a URL; expected a path"):
        storage.local_only(option, "s3://b/x")
    assert storage.local_only(option, "file:///a/b") == Path("/a/b")
