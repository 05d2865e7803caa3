"""A disk that fills up while a trial trains."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest

from sweep.journal.events import FailedEvent, Journal, read_events
from trainers.results.folder import finished, trial_folder
from trainers.runner import run_trial
from trainers.trial import main

pytestmark = pytest.mark.faults


@contextlib.contextmanager
def files_of_at_most(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_trial_says_so_keeps_its_state_and_goes_on(bank, make, tmp_path, capsys):
    config = make(epochs=3, probes=("linear",))
    root, file = str(tmp_path / "full"), tmp_path / "trial.yaml"
    file.write_text(config.model_dump_json(exclude_none=True))
    command = [str(file), "--bank", bank, "--out", root, "--save-seconds", "0"]

    def stop(values):
        raise InterruptedError("stop")

    with pytest.raises(InterruptedError):
        run_trial(config, bank, root, stop, save_seconds=0)
    place = Path(trial_folder(root, config)) / "checkpoints"
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert sorted({p.parent.name for p in before}) == ["step-00000002", "step-00000003"]
    with files_of_at_most(20_000), pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert f"no space to write {place / 'step-00000004'}: " in said
    assert said.endswith(" bytes free; make room, then run the same command again")
    assert {p: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 0
    whole, again = run_trial(config, bank, str(tmp_path / "whole")), finished(root, config)
    assert again is not None
    assert again.metrics == whole.metrics


def test_the_journal_names_itself_and_writes_later_what_was_refused(tmp_path):
    events = [FailedEvent(trial=trial, config={}, error="why") for trial in "abc"]
    journal = Journal(tmp_path)
    journal.append(events[0])
    said = f"no space to write {journal.path}: "
    with files_of_at_most(journal.path.stat().st_size + 5), pytest.raises(OSError, match=said):
        journal.append(events[1])
    journal.append(events[2])
    journal.close()
    assert [event.trial for _, event in read_events(journal.path)] == ["a", "b", "c"]
    journal = Journal(tmp_path)
    with files_of_at_most(10):
        with pytest.raises(OSError, match="no space to write"):
            journal.append(events[0])
        with pytest.raises(OSError, match="no space to write"):
            journal.close()
