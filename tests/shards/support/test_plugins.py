"""A plugin is imported from the bytes of its hash, registers what it owns, or leaves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shards.arms import ARMS, make_arm
from shards.support.plugin_source import sources
from shards.support.plugins import SEARCH, keep_copies, load_plugins
from shards.support.registry import Table, plugins_of
from tests.plugins import ARM, forgetting, write  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("forgetting")
ADD = "from shards.arms import ARMS\nARMS['added'] = ARMS['clean']\n"


def hash_of(folder: Path, name: str = "mine") -> str:
    (source,) = sources(name, [folder])
    return source.digest


def test_what_a_plugin_registers_names_it_with_its_hash(tmp_path: Path) -> None:
    write(tmp_path, ARM.format(pad=2))
    (spec,) = load_plugins(["mine"], tmp_path)
    assert re.fullmatch(r"mine@[0-9a-f]{16}", spec)
    assert plugins_of((ARMS, "moved"), (ARMS, "noise:0.1")) == (spec,)
    assert make_arm("moved").options == {"plugin": spec}
    assert "plugin" not in make_arm("crop_flip").options
    assert load_plugins([spec]) == load_plugins(["mine"], tmp_path) == (spec,)


def test_an_edited_source_is_imported_anew_whatever_python_has_compiled(tmp_path: Path) -> None:
    """Equal in size and time of change, so that Python would take its own .pyc for up to date."""
    path = write(tmp_path, ARM.format(pad=2))
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tmp_path)], check=True)
    before, first = path.stat(), load_plugins(["mine"], tmp_path)
    assert make_arm("moved").ops[0].pad == 2
    path.write_text(ARM.format(pad=3))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_plugins(["mine"], tmp_path) != first
    assert make_arm("moved").ops[0].pad == 3
    with pytest.raises(ValueError, match=r"with hash .* is needed, but .*mine\.py has"):
        load_plugins(first)
    write(tmp_path, ADD)
    load_plugins(["mine"], tmp_path)
    assert "moved" not in ARMS


def test_the_hash_of_a_package_covers_all_of_its_files_but_compiled_ones(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    write(package, "from mine.inner import pad\n" + ARM.format(pad="pad"), "__init__")
    write(package, "pad = 2\n", "inner")
    seen = [hash_of(tmp_path)]
    load_plugins(["mine"], tmp_path)
    write(package, "pad = 5\n", "inner")
    (package / "table.json").write_text("[]")
    seen.append(hash_of(tmp_path))
    load_plugins(["mine"], tmp_path)
    assert make_arm("moved").ops[0].pad == 5
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(package)], check=True)
    (package / ".swap").write_text("x")
    assert seen[0] != seen[1] == hash_of(tmp_path)
    (package / "table.json").rename(package / "other.json")
    assert hash_of(tmp_path) not in seen


def test_beside_the_file_comes_before_sys_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "path", ARM.format(pad=2))
    write(tmp_path / "beside", ARM.format(pad=3))
    monkeypatch.syspath_prepend(str(tmp_path / "path"))
    load_plugins(["mine"], tmp_path / "beside")
    assert make_arm("moved").ops[0].pad == 3
    load_plugins(["mine"])
    assert make_arm("moved").ops[0].pad == 2
    with pytest.raises(ValueError, match=r"^plugins: no other\.py and no other/__init__\.py in "):
        load_plugins(["other"], tmp_path)


def test_a_copy_is_found_by_its_hash_in_another_process(tmp_path: Path) -> None:
    path = write(tmp_path / "grids", ARM.format(pad=2))
    specs = load_plugins(["mine"], tmp_path / "grids")
    (copy,) = keep_copies(str(tmp_path / "run"), specs)
    folder = tmp_path / "run" / "plugins" / specs[0].replace("@", "-")
    assert (copy, Path(copy).read_text()) == (str(folder / "mine.py"), path.read_text())
    path.write_text(ARM.format(pad=3))
    code = "import sys; from shards.support.plugins import *; print(load_plugins(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *specs]
    assert str(path.parent) in os.environ[SEARCH]
    refused = subprocess.run(command, check=False, capture_output=True, text=True)
    assert f"{path} has" in refused.stderr
    assert f"plugins/{folder.name}" in refused.stderr
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    found = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert found.stdout.strip() == str(specs), found.stderr


REFUSED = {
    "registers nothing; a plugin adds": "x = 1\n",
    r"mine\.py:3: ZeroDivisionError: division by zero": ADD + "x = 1 / 0\n",
    r"mine\.py:2: SyntaxError: '\(' was never closed": "x = 1\nf(\n",
    r"mine\.py:1: ModuleNotFoundError: No module named 'nowhere'": "import nowhere\n",
    r"mine\.py:1: SystemExit: 3": "raise SystemExit(3)\n",
    r"mine\.py:2: arm `noise` is registered already, by the project": "from shards.arms import "
    "ARMS\nARMS['noise'] = ARMS['clean']\n",
    r"mine\.py:3: arm `added` is registered already, by it": ADD + "ARMS['added'] = 1\n",
    "arm `noise` is registered already; it must stay": ADD + "ARMS.update(noise=None)\n",
    "arm `clean` is registered already; it must stay": ADD + "ARMS.pop('clean')\n",
    r"mine\.py:2: corruption `haze`: plugins cannot add": "from shards.arms.corruptions import "
    "CORRUPTIONS\nCORRUPTIONS['haze'] = CORRUPTIONS['fog']\n",
}


@pytest.mark.parametrize("line", REFUSED)
def test_a_refused_plugin_leaves_nothing(line: str, tmp_path: Path) -> None:
    before, modules, finders = dict(ARMS), set(sys.modules), list(sys.meta_path)
    write(tmp_path, REFUSED[line])
    with pytest.raises(ValueError, match=f"^plugins: .*{line}"):
        load_plugins(["mine"], tmp_path)
    assert dict(ARMS) == before
    assert {n for n in set(sys.modules) - modules if n.startswith("mine")} == set()
    assert sys.meta_path == finders
    assert not Table.importing


def test_two_plugins_with_one_name_and_a_module_imported_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, ADD)
    write(tmp_path, ADD, "second")
    load_plugins(["mine"], tmp_path)
    with pytest.raises(ValueError, match=r"second\.py:2: arm `added` .* by plugin `mine`"):
        load_plugins(["second"], tmp_path)
    write(tmp_path, "x = 1\n", "helpers")
    write(tmp_path, ARM.format(pad=2) + "import helpers\n", "third")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"uses .*helpers\.py, which is neither installed nor"):
        load_plugins(["third"], tmp_path)
    monkeypatch.delitem(sys.modules, "helpers")
    for name in ("json", "shards"):
        write(tmp_path, ADD, name)
        with pytest.raises(ValueError, match=f"`{name}` is imported already, not as a plugin"):
            load_plugins([name], tmp_path)


def test_a_record_may_not_name_a_module_without_its_hash(tmp_path: Path) -> None:
    write(tmp_path, ARM.format(pad=2))
    specs = load_plugins(["mine"], tmp_path)
    assert load_plugins(specs, recorded=True) == specs
    with pytest.raises(ValueError, match="plugins: `mine` in a record; expected MODULE@HASH"):
        load_plugins(["mine"], tmp_path, recorded=True)


@pytest.mark.parametrize("specs", ["mine", None, ["a.b"], ["mine.py"], [3], ["mine@12"]])
def test_other_values_are_refused_in_one_line(specs: object) -> None:
    with pytest.raises(ValueError, match=r"^plugins: [^\n]+$"):
        load_plugins(specs)
