"""What a trial uses of a plugin is part of its identity and its bank's, and of no other's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shards.bank.dataset import Bank
from shards.bank.reader import load_manifest
from shards.building.build import build
from shards.building.request import Request
from shards.support import plugins
from shards.support.plugins import load_plugins
from shards.verify import verify
from sweep.planning.banks import plan_banks
from sweep.planning.expand import expand
from sweep.planning.grid import read_grid
from tests.plugins import example, forgetting, write  # noqa: F401 (a fixture)
from trainers.canonical import load_config, make_config, stored_config
from trainers.probe import main as probe
from trainers.results.folder import read_json
from trainers.results.loaded import load
from trainers.runner import run_trial

pytestmark = pytest.mark.usefixtures("forgetting")
BASE: dict[str, Any] = {
    "dataset": "digits",
    "teacher": "embedded",
    "student": "width:0.5",
    "train_samples": 60,
    "test_samples": 20,
    "batch_size": 20,
    "epochs": 1,
    "probes": ["spectrum"],
    "test_arms": [],
    "adapt_arms": [],
}
USING = BASE | {"objective": "cosine+l1", "arm": "shift_flip"}
STUDENT = """
from torch import nn
from trainers.students import STUDENTS, Student

def flat(argument, embedding_dim, image_size):
    return Student(nn.Flatten(), nn.Sequential(nn.Linear(3 * image_size**2, embedding_dim)))

STUDENTS["flat"] = flat
"""
PROBE = """
from trainers.probes import PROBES, Probe

def count(bank):
    yield "count", float(len(bank.test_ND))

PROBES["count"] = Probe(count)
"""


def test_trials_that_use_a_plugin_are_new_where_it_is_edited_and_others_stay(
    tmp_path: Path,
) -> None:
    unused, path = make_config(BASE), example(tmp_path)
    (first,) = load_plugins(["mine"], tmp_path)
    using = [make_config(USING), make_config(BASE | {"test_arms": ["shift_flip:3"]})]
    assert make_config(BASE | {"plugins": [first]}) == unused
    assert "plugins" not in unused.model_dump()
    for config in using:
        assert config.plugins == (first,)
        assert stored_config(config.model_dump(mode="json")) == config
    path.write_text(path.read_text() + "# edited\n")
    load_plugins(["mine"], tmp_path)
    assert make_config(BASE).identity == unused.identity
    assert make_config(USING).identity != using[0].identity
    with pytest.raises(ValueError, match=r"^there: plugins: `mine` in a record"):
        stored_config(BASE | {"plugins": ["mine"]}, "there")
    with pytest.raises(ValueError, match=r"plugins: `mine` with hash .* is needed, but .*mine\.py"):
        stored_config(using[0].model_dump())


def test_identities_do_not_depend_on_the_order_in_which_plugins_are_imported(
    tmp_path: Path,
) -> None:
    text = example(tmp_path).read_text()
    for name, term in (("second", "a"), ("third", "b")):
        own = text.replace("l1_", f"{term}_").replace('"l1"', f'"{term}"')
        write(tmp_path, own.replace("shift_flip", term), name)
    found = set()
    for order in (["second", "third"], ["third", "second"]):
        load_plugins(order, tmp_path)
        found.add(make_config(BASE | {"objective": "b+a+mse"}).identity)
        for loaded in list(plugins._LOADED.values()):
            plugins._forget(loaded)
    assert len(found) == 1


def test_a_grid_finds_the_plugin_beside_it_and_its_fields(tmp_path: Path) -> None:
    text = (
        "plugins: [mine]\n"
        "fixed: {dataset: digits, teacher: embedded, student: width:1, l1_weight: 0.5}\n"
        "axes: {objective: [cosine, l1]}\n"
    )
    with pytest.raises(ValueError, match=r"^grid: plugins: no mine\.py and no mine/__init__\.py"):
        read_grid(text, "grid", "grid", tmp_path)
    example(tmp_path)
    plain, using = expand(read_grid(text, "grid", "grid", tmp_path))
    assert plain == make_config({"dataset": "digits", "teacher": "embedded", "student": "width:1"})
    assert using.objective_fields["l1_weight"] == 0.5
    for wrong in ("fixed: {plugins: [mine]}", "axes: {plugins: [[mine]]}"):
        with pytest.raises(ValueError, match="`plugins` is a key of the grid file"):
            read_grid(wrong, "grid", "grid", tmp_path)
    write(tmp_path, PROBE.replace("Probe(count)", "Probe(count, default=True)"), "probes")
    with pytest.raises(ValueError, match="probe `count` is a default one"):
        make_config(BASE | {"plugins": list(load_plugins(["probes"], tmp_path))})


def request(config: dict[str, Any]) -> Request:
    names = ("dataset", "train_samples", "test_samples")
    return Request(
        **{name: config[name] for name in names},
        teachers=(config["teacher"],),
        arms=(config["arm"],),
        plugins=("mine",),
    )


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of the example's arm, whose module is on sys.path."""
    example(tmp_path / "lib")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    build(request(USING), str(tmp_path / "store/banks/one"))
    return str(tmp_path / "store/banks/one")


def test_a_bank_names_the_plugin_of_its_arm_and_is_not_taken_for_another(
    bank: str, tmp_path: Path
) -> None:
    config, manifest = make_config(USING), load_manifest(bank)
    assert manifest.plan.plugins == config.plugins
    name = config.plugins[0].replace("@", "-")
    assert (Path(bank) / "plugins" / name / "mine.py").is_file()
    located, jobs = plan_banks([config], str(tmp_path / "store"))
    assert (located[config.identity], jobs) == (bank, [])
    assert verify(bank).good
    assert len(Bank(bank, arm="shift_flip:2")) == 60

    path = tmp_path / "lib/mine.py"
    path.write_text(path.read_text().replace("HorizontalFlip()", "HorizontalFlip(), "))
    assert load_plugins(["mine"]) != config.plugins
    _, jobs = plan_banks([make_config(USING)], str(tmp_path / "store"))
    assert [job.request.plugins for job in jobs] == [load_plugins(["mine"])]
    assert jobs[0].location != plan_banks([make_config(BASE)], "nowhere")[1][0].location
    with pytest.raises(ValueError, match=r"arm: the bank .* has .*mine@.*, the trial needs"):
        run_trial(make_config(USING), bank, str(tmp_path / "out"))
    with pytest.raises(ValueError, match="has a bank with plugins = "):
        build(request(USING), bank)
    for open_again in (verify, lambda bank: Bank(bank, arm="shift_flip")):
        with pytest.raises(ValueError, match=f"a copy is in plugins/{name} of the run or the bank"):
            open_again(bank)


@pytest.mark.ranks
def test_two_ranks_started_as_processes_import_the_plugin(bank: str, tmp_path: Path) -> None:
    """One that is named by a trial's file, and lies beside it: the ranks read standard input."""
    shutil.move(tmp_path / "lib/mine.py", tmp_path / "mine.py")
    fields = USING | {"engine": "ddp", "ranks": 2, "plugins": ["mine"]}
    (tmp_path / "trial.yaml").write_text(json.dumps(fields))
    config = load_config(str(tmp_path / "trial.yaml"))
    result = run_trial(config, bank, str(tmp_path / "out"))
    assert result is not None
    assert result.config["plugins"] == [config.plugins[0]]
    name = config.plugins[0].replace("@", "-")
    assert (tmp_path / "out/plugins" / name / "mine.py").is_file()


def test_a_student_and_a_probe_of_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student = write(tmp_path / "lib", STUDENT)
    counting = write(tmp_path / "lib", PROBE, "second")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    store = tmp_path / "store"
    build(request(BASE | {"arm": "noise:0.1"}), str(store / "banks/one"))
    config = make_config(BASE | {"student": "flat:", "plugins": ["mine"]})
    run_trial(config, str(store / "banks/one"), str(store))
    trial = store / "trials" / config.identity
    assert read_json(str(trial / "student/student.json"))["plugins"] == list(config.plugins)
    plugins._forget(plugins._LOADED["mine"])
    assert load(trial).classes[0] == "zero"

    def measure(status: int) -> tuple[str, str, dict[str, float]]:
        """What is printed first, what on stderr, and the values in the files."""
        with pytest.raises(SystemExit) as ended:
            probe([str(trial), "--probe", "count", "--plugin", "second"])
        assert ended.value.code == status
        out, err = capsys.readouterr()
        values = [read_json(str(path))["values"] for path in trial.glob("probes/*.json")]
        return out, err, values[0]["metrics"] | values[0]["teacher"]

    out, _, values = measure(0)
    assert out.startswith("measured")
    assert values == {"test/count": 20.0, "teacher/count": 20.0}
    assert measure(0)[0].startswith("up to date")
    counting.write_text(PROBE.replace("bank.test_ND)", "bank.train_ND)"))
    out, err, values = measure(0)
    assert out.startswith("measured")
    assert "replaced, because it has other settings" in err
    assert values == {"test/count": 60.0, "teacher/count": 60.0}
    student.write_text(STUDENT + "# edited\n")
    plugins._forget(plugins._LOADED["mine"])  # as in a new process
    assert "student.json: plugins: `mine` with hash" in measure(2)[1]
