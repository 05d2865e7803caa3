"""Several ranks as one trial: same gradient, one result, and they live and die together."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

from trainers.engines import ENGINES
from trainers.engines.launch import RankError, free_port, rank_of_environment
from trainers.loop import DivergedError
from trainers.objectives import OBJECTIVES
from trainers.trial import main, run_trial, trial_place

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

RANK = """
import sys
import torch
from torch import nn
from trainers.engines import ENGINES
from trainers.config import make_config
from trainers.objectives import OBJECTIVES

torch.set_num_threads(1)
given = torch.load(sys.argv[1], weights_only=True)
class Knobs: temperature, infonce_weight = 0.1, 0.7
with ENGINES["ddp"](torch.device("cpu")) as engine:
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    model.load_state_dict(given["model"])
    fields = {"dataset": "digits", "teacher": "embedded", "student": "width:1"}
    config = make_config(fields | {"engine": "ddp", "ranks": 2})
    forward = engine.prepare(model, torch.optim.SGD(model.parameters()), config)
    found = {"agreed": torch.tensor(engine.agree(40 + engine.rank))}
    index_B = engine.micro_batches(torch.arange(8), 1)[0]
    teacher_BD = engine.gather(given["teacher"][index_B])
    for name, objective in OBJECTIVES.items():
        model.zero_grad()
        student_BD = engine.gather(forward(given["images"][index_B]))
        loss = objective(student_BD, teacher_BD, Knobs)
        engine.backward(loss, last=True)
        found[f"{name} loss"] = loss.detach()
        for parameter, value in model.named_parameters():
            found[f"{name} {parameter}"] = value.grad.clone()
    torch.save(found, f"{sys.argv[2]}/rank{engine.rank}")
"""


def ranked(rank: int, ranks: int, port: int) -> dict[str, str]:
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return os.environ | where | {"RANK": str(rank), "WORLD_SIZE": str(ranks)}


def test_the_gradient_is_that_of_one_process(tmp_path):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 5)).double()
    images = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    torch.save({"model": model.state_dict(), "images": images, "teacher": teacher}, tmp_path / "in")
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, str(tmp_path / "rank.py"), str(tmp_path / "in"), str(tmp_path)]
    port = free_port()
    children = [
        subprocess.Popen(command, cwd=ROOT, env=ranked(r, 2, port) | {"PYTHONPATH": str(ROOT)})
        for r in (0, 1)
    ]
    assert [child.wait(timeout=120) for child in children] == [0, 0]

    class Knobs:
        temperature, infonce_weight = 0.1, 0.7

    for rank in (0, 1):
        found = torch.load(tmp_path / f"rank{rank}", weights_only=True)
        assert found["agreed"] == 40
        for name, objective in OBJECTIVES.items():
            model.zero_grad()
            loss = objective(model(images), teacher, Knobs)
            loss.backward()
            assert abs(found[f"{name} loss"] - loss) < 1e-10
            for parameter, value in model.named_parameters():
                assert value.grad.abs().max() > 1e-4
                assert (found[f"{name} {parameter}"] - value.grad).abs().max() < 1e-10, parameter


@pytest.fixture(scope="module")
def done(bank, make, tmp_path_factory):
    root, seen = str(tmp_path_factory.mktemp("ddp")), []
    config = make(engine="ddp", ranks=2, epochs=2, objective="cosine+infonce", probes=("linear",))
    return config, root, run_trial(config, bank, root, seen.append), seen


def test_two_ranks_are_one_trial(done, bank):
    config, root, result, seen = done
    assert seen == result["curve"]
    assert [row["epoch"] for row in seen] == [1, 2]
    assert result["curve"][1]["loss"] < result["curve"][0]["loss"]
    place = Path(trial_place(root, config))
    assert sorted(p.name for p in place.iterdir()) == ["result.json", "student"]
    assert json.loads((place / "result.json").read_text()) == result
    assert run_trial(config, bank, root) == result  # starts no ranks


def test_torchrun_gives_the_same(done, bank, tmp_path):
    config, _, result, _ = done
    (tmp_path / "trial.yaml").write_text(config.model_dump_json())
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", str(free_port()), "-m", "trainers.trial"]
    command += [str(tmp_path / "trial.yaml"), "--bank", bank, "--out", str(tmp_path / "runs")]
    file = Path(trial_place(str(tmp_path / "runs"), config)) / "result.json"
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("test/linear/paper/accuracy") == 1  # one rank prints
    there = json.loads(file.read_text())
    assert there["metrics"] == result["metrics"]
    assert [r["loss"] for r in there["curve"]] == [r["loss"] for r in result["curve"]]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_finished_trial_under_torchrun_is_printed_once(done, bank, monkeypatch, capsys, rank):
    config, root, _, _ = done
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    file = Path(root) / "trial.yaml"
    file.write_text(config.model_dump_json())
    with pytest.raises(SystemExit) as caught:
        main([str(file), "--bank", bank, "--out", root])
    assert caught.value.code == 0
    assert capsys.readouterr().out.count("test/linear/paper/accuracy") == 1 - rank


@pytest.mark.faults
def test_a_killed_rank_takes_its_peers_along_and_is_named(bank, make, tmp_path):
    config = make(engine="ddp", ranks=2, epochs=100_000, probes=("linear",))
    me = psutil.Process()
    times = {}

    def children():
        return [c for c in me.children() if "--config" in c.cmdline()]

    def kill():
        victim = next(c for c in children() if c.environ()["RANK"] == "1")
        times["killed"] = time.monotonic()
        victim.kill()

    def report(values):
        if values["epoch"] == 2:
            threading.Thread(target=kill).start()

    with pytest.raises(RankError, match="rank 1 was killed by SIGKILL") as caught:
        run_trial(config, bank, str(tmp_path), report, save_seconds=0)
    assert time.monotonic() - times["killed"] < 30
    assert children() == []
    assert caught.value.rank == 1
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("result.json"))
    assert list(tmp_path.rglob("step-*"))  # and what was saved is there for the next attempt


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_interrupted_ranks_end_bitwise_equal(bank, make, tmp_path, ranks):
    config = make(engine="ddp", ranks=ranks, epochs=3, batch_size=60, probes=("linear",))
    whole = run_trial(config, bank, str(tmp_path / "whole"))

    def stop(values):
        raise InterruptedError("stop")

    broken = str(tmp_path / "broken")
    with pytest.raises(InterruptedError):
        run_trial(config, bank, broken, stop, save_seconds=0)
    seen = []
    again = run_trial(config, bank, broken, seen.append, save_seconds=0)
    assert seen[0]["epoch"] > 1
    assert [r["loss"] for r in again["curve"]] == [r["loss"] for r in whole["curve"]]
    files = [Path(trial_place(str(tmp_path / r), config)) for r in ("whole", "broken")]
    one, other = ((f / "student" / "student.safetensors").read_bytes() for f in files)
    assert one == other


# ---- refusals and blame, without real ranks ----


def test_ddp_without_ranks_says_how_to_start_them(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert rank_of_environment() is None
    with pytest.raises(ValueError, match="RANK, WORLD_SIZE, MASTER_ADDR not set; start it with"):
        ENGINES["ddp"](CPU)


def test_single_as_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="engine `single` was started as several ranks"):
        ENGINES["single"](CPU)


def play(monkeypatch, script, ranks=2, report=lambda values: None):
    """`launch` with another program in the place of the trial."""
    from trainers.engines import launch

    head = "import os, signal, sys, time\nrank = int(os.environ['RANK'])\n"
    monkeypatch.setattr(launch, "BOOT", head + script)
    start = time.monotonic()
    try:
        launch.launch(ranks, [], report)
    finally:
        played = time.monotonic() - start
    return played


def test_all_reports_arrive_even_in_one_burst(monkeypatch):
    seen = []
    script = """
if rank == 0:
    sys.stdout.write("".join('@report {"epoch": %d}\\n' % i for i in range(5000)) + "noise\\n")
    sys.stdout.write('@report {"epoch"'); sys.stdout.flush(); time.sleep(0.3)
    sys.stdout.write(': 5000}\\n')
"""
    play(monkeypatch, script, report=seen.append)
    assert [values["epoch"] for values in seen] == list(range(5001))


WAIT = "time.sleep(60)"
ENDS = [
    (WAIT, "sys.exit('error: lr is odd')", "rank 1 ended with 1: lr is odd", 1),
    (WAIT, "os.kill(os.getpid(), 9)", "rank 1 was killed by SIGKILL: it said nothing", -9),
    ("sys.exit(7)", WAIT, "rank 0 ended with 7: it said nothing", 7),
    # A peer's connection breaks before the guilty process is quite gone.
    (
        "sys.exit('Connection reset')",
        "time.sleep(0.2); os.kill(os.getpid(), 11)",
        "rank 1 .*SEGV",
        -11,
    ),
    (
        "sys.exit('Connection closed')",
        "time.sleep(0.2); sys.exit('no file')",
        "rank 1 .*no file",
        1,
    ),
]


@pytest.mark.parametrize(("first", "second", "said", "code"), ENDS)
def test_the_guilty_rank_is_named_soon(monkeypatch, first, second, said, code):
    start = time.monotonic()
    with pytest.raises(RankError, match=said) as caught:
        play(monkeypatch, f"if rank == 0:\n    {first}\nelse:\n    {second}\n")
    assert caught.value.code == code
    assert time.monotonic() - start < 10


def test_divergence_of_the_ranks_is_divergence(bank, make, tmp_path, monkeypatch):
    from trainers.engines import launch

    text = "error: diverged at step 5 (epoch 2): the loss is nan; try a smaller lr"
    monkeypatch.setattr(
        launch, "BOOT", f"import sys; print({text!r}, file=sys.stderr); sys.exit(3)"
    )
    config = make(engine="ddp", ranks=2)
    with pytest.raises(DivergedError, match=r"^diverged at step 5 \(epoch 2\)"):
        run_trial(config, bank, str(tmp_path))


PARENT = """
import sys
from trainers.engines import launch

wait = "import time; open(sys.argv[1] + f'/{os.getpid()}', 'w').close(); time.sleep(60)"
launch.BOOT = launch.BOOT.split("runpy.run_module")[0] + wait
launch.launch(2, [sys.argv[1]], print)
"""


@pytest.mark.faults
def test_ranks_die_with_their_parent(tmp_path):
    """The parent is killed outright; the real bootstrap has set the kernel's death signal."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=ROOT)
    end = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    ranks = [psutil.Process(int(p.name)) for p in tmp_path.iterdir()]
    assert len(ranks) == 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert not alive
