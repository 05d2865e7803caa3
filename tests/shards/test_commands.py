from __future__ import annotations

import re
from pathlib import Path

import pytest

from shards import build, verify
from shards.support.progress import Progress, clock
from shards.support.registry import Table


def run(main, capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(caught.value.code or 0), out, err


@pytest.mark.parametrize("module", ["shards.build", "shards.verify"])
def test_help_shows_examples(module: str, capsys) -> None:
    code, out, err = run(
        {"shards.build": build, "shards.verify": verify}[module].main, capsys, "--help"
    )
    assert (code, err) == (0, "")
    assert out.count(f"python -m {module} ") >= 2


RATES = ("images/s", "teacher alone, images/s")
BUILD = ("--dataset", "digits", "--teacher", "embedded")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((*BUILD, "--arm", "nois"), "did you mean `noise`"),
        ((*BUILD, "--views", "0"), "views"),
        ((*BUILD, "--views", "two"), "--views"),
        ((*BUILD, "--train-samples", "99999"), "1 to 1438"),
        ((*BUILD, "--train-samples", "0"), "train_samples"),
        ((*BUILD, "--test-samples", "-5", "--dry-run"), "test_samples"),
        ((*BUILD, "--test-samples", "0", "--dry-run"), "test_samples"),
        ((*BUILD, "--seed", str(1 << 63), "--dry-run"), "seed"),
        ((*BUILD, "--ray", "--workers", "-3", "--dry-run"), "--workers: -3; expected 1 or more"),
        ((*BUILD, "--ray", "--workers", "0"), "--workers: 0; expected 1 or more"),
        ((*BUILD, "--gpu-price", "-1", "--dry-run"), "-1; expected a finite number, at least 0"),
        ((*BUILD, "--gpu-price", "nan", "--dry-run"), "nan; expected a finite number, at least 0"),
        (("--dataset", "digits:", "--teacher", "embedded"), "expected `digits`"),
        (("--dataset", "digits", "--teacher", "embedded:"), "expected `embedded`"),
        ((*BUILD, "--device", "tpu9"), "tpu9"),
        (("--dataset", "digit", "--teacher", "embedded"), "did you mean `digits`"),
        (("--dataset", "digits", "--teacher", "embeded"), "did you mean `embedded`"),
        (("--dataset", "digits"), "--teacher are required"),
        (("--request", "{"), "error"),
        (("--request", '{"dataset": "digits", "teachr": "x"}'), "teach"),
    ],
)
def test_bad_input_to_build_is_one_error_line_and_code_2(
    arguments, part, tmp_path: Path, capsys
) -> None:
    code, out, err = run(build.main, capsys, *arguments, "--out", str(tmp_path / "x"))
    lines = [line for line in err.splitlines() if "error:" in line]
    assert code == 2
    assert len(lines) == 1
    assert part in lines[0]
    assert not out
    assert "Traceback" not in err
    assert not list(tmp_path.glob("x/*.tar"))


@pytest.mark.parametrize("out", ["pipe:cat", "ftp://host/x"])
def test_build_refuses_other_schemes(out: str, capsys) -> None:
    code, _, err = run(build.main, capsys, *BUILD, "--out", out)
    assert (code, err.count("error:")) == (2, 1)
    assert "refused" in err


def test_build_from_the_command_line_and_verify(tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "bank")
    small = ("--train-samples", "20", "--test-samples", "10", "--arm", "noise", "--views", "2")
    code, text, err = run(build.main, capsys, *BUILD, *small, "--out", out)
    assert code == 0
    assert "2 shards" in text
    assert "ETA" in err
    told = [re.search(rf"^{name}: ([\d.]+)$", text, re.M) for name in RATES]
    build_rate, teacher_rate = (float(rate[1]) for rate in told if rate)
    assert 0 < build_rate < teacher_rate  # the build has more to do than its teacher
    code, text, _ = run(verify.main, capsys, out)
    assert code == 0
    assert "20 samples; views: clean x1, noise:0.1 x2" in text
    code, text, err = run(build.main, capsys, *BUILD, *small, "--out", out)
    assert (code, err) == (0, "")


def test_build_on_a_ray_that_is_not_installed(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    code, _, err = run(build.main, capsys, *BUILD, "--ray", "--out", str(tmp_path / "bank"))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--ray: Ray is not installed" in err
    assert not (tmp_path / "bank").exists()


def test_verify_says_which_check_failed_and_ends_with_1(copy: Path, capsys) -> None:
    assert run(verify.main, capsys, str(copy))[0] == 0
    file = copy / "train-000000.tar"
    data = bytearray(file.read_bytes())
    data[1000] ^= 1
    file.write_bytes(data)
    code, out, _ = run(verify.main, capsys, str(copy))
    assert code == 1
    assert "FAILED, 1: shard" in out
    assert "keys           │ ok" in out


def test_verify_of_nothing_says_what_is_missing(tmp_path: Path, capsys) -> None:
    code, _, err = run(verify.main, capsys, str(tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert "manifest.json is missing" in err


def test_progress_counts_only_its_own_work_for_the_eta(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("shards.support.progress.time.monotonic", lambda: now[0])
    with Progress("build", 100) as bar:
        bar.resume_at(50)
        now[0] = 10.0
        bar.update(60, "shard 6")
        bar.tick()
    lines = capsys.readouterr().err.splitlines()
    assert "ETA --:--" in lines[0]
    assert "60%" in lines[1]
    assert "ETA 0:40" in lines[1]
    assert "shard 6" in lines[1]
    assert "100%" in lines[2]
    assert len(lines) == 3


def test_clock_writes_hours_minutes_and_seconds() -> None:
    assert [clock(s) for s in (0, 75.9, 4000)] == ["0:00", "1:15", "1:06:40"]


def test_a_table_miss_lists_the_valid_names_and_the_closest(refused) -> None:
    table = Table("fruit", {"apple": 1, "pear": 2})
    assert table["pear"] == 2
    refused(lambda: table["appel"], "unknown fruit `appel`", "did you mean `apple`?", "apple, pear")
    assert "did you mean" not in refused(lambda: table["zzz"], "unknown fruit `zzz`")
