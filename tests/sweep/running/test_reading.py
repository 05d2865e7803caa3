"""`--reading` says how trials read their bank; it changes no result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sweep.options import parse_arguments
from sweep.planning.resources import Resources
from sweep.running import channel, schedule, trial_actor
from trainers.canonical import make_config
from trainers.results.lease import Behalf


def results(folder: Path) -> dict[str, dict]:
    """What each trial found, by identity; not how long it took."""
    found = {}
    for file in folder.glob("trials/*/result.json"):
        value = json.loads(file.read_text())
        found[file.parent.name] = {name: value[name] for name in ("probes", "student", "source")}
    return found


@pytest.mark.slow
def test_a_streaming_sweep_gives_the_same_trials_the_same_results(swept, tools, tmp_path) -> None:
    out = tmp_path / "streamed"
    shutil.copytree(swept.folder / "banks", out / "banks")
    (tmp_path / "small.yaml").write_text(tools.text.replace("seeds: 2", "seeds: 1"))
    ran = tools.run(tmp_path / "small.yaml", out, "--reading", "streaming")
    assert ran.code == 0, ran.err
    streamed, whole = results(out), results(swept.folder)
    assert len(streamed) == 2
    assert streamed == {trial: whole[trial] for trial in streamed}


@pytest.mark.parametrize("reading", ["auto", "resident", "streaming"])
def test_the_flag_reaches_the_trial(reading: str, monkeypatch) -> None:
    options = parse_arguments(["--grid", "demo", "--reading", reading])
    seen = []
    monkeypatch.setattr(trial_actor.tune, "report", lambda values: None)
    monkeypatch.setattr(trial_actor, "check_seen", lambda store, bank: None)
    monkeypatch.setattr(trial_actor, "run_trial", lambda *place, **how: seen.append(how))
    config = make_config({"dataset": "digits", "teacher": "embedded", "student": "width:1"})
    job = schedule.Job(config, "bank")
    resources = Resources(reading=options.reading)
    document = schedule.document_of(job, "store", resources, 0, Behalf("sweep"))
    monkeypatch.setattr(channel, "document", lambda sweep, trial: document)
    trial_actor.trainable({"sweep": "s", "trial": config.identity, "deaths": 0})
    (how,) = seen
    assert (how["device"], how["reading"]) == ("cpu", reading)
    assert how["behalf"] == Behalf("sweep")


def test_any_other_way_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--grid", "demo", "--reading", "lazily"])
    assert "resident" in capsys.readouterr().err
