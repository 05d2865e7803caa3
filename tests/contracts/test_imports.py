"""Who may import what, and that importing does nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from shards.support.lease import ours, take

ROOT = Path(__file__).parents[2]
ROOMS = ("shards", "trainers", "sweep")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
]


def python(code: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_import_linter() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "0 broken" in ran.stdout


def test_trials_banks_and_commands_import_no_heavy_library() -> None:
    """In one process, the narrowest first: what is absent after a later import was before it.

    A driver that does not import MLflow cannot be held up by it.
    """
    steps = [
        ("shards.bank.reader", ("ray", "mlflow", "open_clip")),
        ("trainers.trial", ("ray", "mlflow", "open_clip")),
        ("shards.build", ("ray", "mlflow")),
        ("sweep.run", ("ray", "mlflow")),  # their telemetry variables are set first
        ("sweep.execute", ("ray", "mlflow")),
        ("sweep.running.driver", ("mlflow",)),  # a process of its own uploads
    ]
    code = f"""
import sys
for module, absent in {steps!r}:
    __import__(module)
    print(*[f"{{module}} imports {{name}}" for name in absent if name in sys.modules], end="")
"""
    assert python(code) == ""


QUICK = [
    (["sweep.run", "--help"], 0, ""),
    (["sweep.cluster", "--help"], 0, ""),
    (["sweep.stop", "--help"], 0, ""),
    (["sweep.stop", "nowhere"], 2, "none is running"),
    (["sweep.run", "--grid", "demmo"], 2, "unknown grid `demmo`; did you mean `demo`"),
    (["sweep.run", "--grid", "demo", "--set", "epochs=many"], 2, "--set epochs=many: epochs: "),
    (["sweep.run", "--grid", "demo", "--seeds", "0"], 2, "--seeds"),
    (["sweep.run", "--grid", "mistake.yaml"], 2, "mistake.yaml: unknown key `axis`; did you mean"),
    (["sweep.run", "--grid", "demo", "--store", "HELD"], 2, "a sweep works on it: process"),
    (["sweep.run", "--grid", "names.yaml"], 2, "unknown field `learnin_rate`; did you mean `lr`"),
    *(
        (["sweep.run", "--grid", "demo", *settings], 2, said)
        for settings, said in [
            (
                ["--set", "koleo_wieght=1"],
                "unknown field `koleo_wieght`; did you mean",
            ),
            (["--set", "student=widht:1"], "unknown student `widht`; did you mean `width`"),
            (["--set", "arm=nois:0.1"], "unknown arm `nois`; did you mean `noise`"),
            (["--set", "test_arms=[band]"], "unknown arm `band`; did you mean `bands`"),
            (["--set", "objective=cosine+kole"], "unknown objective `kole`; did you mean `koleo`"),
            (["--set", "probes=[spectrm]"], "unknown probe `spectrm`; did you mean `spectrum`"),
            (["--set", "student=width:-1"], "the width must be a positive decimal, such as"),
            (["--set", "student=params:2"], "the budget must be a positive decimal and K or M"),
            (["--set", "student=teacher_pca:0"], "write teacher_pca:K, K a whole number of 1"),
            (["--set", "arm=noise:2"], "arm `noise:2`: sigma `2` must be a number in [0, 1]"),
            (["--set", "arm=clean:1"], "arm `clean:1`: `clean` takes no option"),
            (["--set", "test_arms=[fog:6]"], "severity `6` must be a whole number from 1 to 5"),
            (["--set", "ranks=3"], "ranks: 3 with engine `single`; choose 1, or engine `ddp`"),
            (["--set", "target=labels"], "target: `labels` with the objective `cosine`"),
            (["--set", "lr=1", "--set", "lr=2"], "--set lr=2: lr is set to `1` as well; keep one"),
        ]
    ),
]


@pytest.mark.parametrize(("arguments", "status", "said"), QUICK, ids=lambda v: str(v)[:40])
def test_help_and_mistakes_need_no_heavy_library(
    arguments: list[str], status: int, said: str, tmp_path: Path
) -> None:
    """They should be on the screen in a fraction of a second; torch alone takes five."""
    (tmp_path / "mistake.yaml").write_text("axis: {}\n")
    (tmp_path / "names.yaml").write_text("fixed: {dataset: digits, learnin_rate: 1}\n")
    module, *options = [part.replace("HELD", str(tmp_path)) for part in arguments]
    code = f"""
import os, sys
from importlib import import_module
sys.path.insert(0, {str(ROOT)!r})
os.chdir({str(tmp_path)!r})
sys.stdout = open("/dev/null", "w")
try:
    import_module({module!r}).main({options!r})
except SystemExit as end:
    heavy = {{"torch", "ray", "mlflow", "matplotlib", "scipy", "pandas"}} & set(sys.modules)
    print(end.code, sorted(heavy), file=sys.__stdout__)
"""
    with take(str(tmp_path / "sweep-lease"), ours("sweep")):
        ran = subprocess.run(
            [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT
        )
    assert ran.stdout == f"{status} []\n", ran.stderr
    assert said in ran.stderr
    assert ran.stderr.count("\n") == bool(said)


def imported(path: Path) -> set[str]:
    """Dotted names a file imports, anywhere in it, and `torch.distributed` used as attribute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return names


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("torch.distributed", ("trainers/engines/",)),
        ("deepspeed", ("trainers/engines/",)),
        (
            "ray",
            (
                "sweep/running/",
                "shards/building/ray_connection.py",
                "shards/building/ray_workers.py",
                "shards/building/cluster_resources.py",
            ),
        ),
        ("mlflow", ("sweep/journal/",)),
        ("open_clip", ("shards/teachers/", "shards/teachers/embedded/")),
    ],
)
def test_each_library_has_one_home(package: str, homes: tuple[str, ...]) -> None:
    users = [
        path.relative_to(ROOT).as_posix()
        for path in FILES
        if any(name == package or name.startswith(package + ".") for name in imported(path))
    ]
    assert [user for user in users if not user.startswith(homes)] == []
    if package != "deepspeed":
        assert users  # or this test looks for the wrong name


@pytest.mark.thorough
def test_importing_changes_nothing() -> None:
    """No module of ours sets a variable, seeds, picks threads or prints when imported."""
    code = f"""
import os, random, sys
import numpy, torch, open_clip, sklearn, scipy.stats, timm, matplotlib, rich, ray, mlflow
from ray import tune
before = dict(os.environ), torch.get_num_threads(), torch.initial_seed(), os.listdir()
state = random.getstate(), torch.random.get_rng_state()
for name in {MODULES!r}:
    __import__(name)
after = dict(os.environ), torch.get_num_threads(), torch.initial_seed(), os.listdir()
assert before == after, [a for a, b in zip(before, after) if a != b]
assert random.getstate() == state[0] and torch.equal(torch.random.get_rng_state(), state[1])
"""
    assert python(code) == ""


@pytest.mark.thorough
def test_telemetry_is_off_before_either_library_is_loaded() -> None:
    code = """
import os, sys
from sweep import environment, run
check = environment.set_defaults
def checked():
    assert not {"ray", "mlflow"} & set(sys.modules)
    check()
run.set_defaults = checked
try:
    run.main(["--grid", "nothing"])
except SystemExit:
    print(os.environ["RAY_USAGE_STATS_ENABLED"], os.environ["MLFLOW_DISABLE_TELEMETRY"])
"""
    assert python(code).split() == ["0", "true"]


def test_tunes_own_snapshots_are_never_restored() -> None:
    """They are pickles, and older than the store: `Tuner.restore` has no place here."""
    calls = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in ("restore", "can_restore")
        if "Tuner" in ast.unparse(node.value)
    ]
    assert calls == []
    assert any("tune.Tuner(" in path.read_text() for path in FILES)  # or it has another name
