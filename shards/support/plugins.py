"""Plugins: modules of the user's own that add entries to the project's tables.

    load_plugins(["mine"], beside="experiments")     # -> ("mine@0123456789abcdef",)

A plugin is named by its module, `mine`, which is one file or a package. It is searched beside the
file that names it (a grid, a trial), then on `sys.path`. What is recorded, and handed to other
processes, is MODULE@HASH; then only a source with that hash is imported, wherever it is found.

Importing the plugin registers its entries. What uses one of them names the plugin with its hash: a
trial in its fields, a bank in its records of arms, data set and teachers. So an edited source gives
new trials and banks, and those that use nothing of the plugin stay as they are.

A plugin may import what is installed, and this project. Any other file it must bring along, because
it would be part of neither the hash nor what other machines get.
"""

from __future__ import annotations

import importlib
import os
import re
import site
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from shards.support import storage
from shards.support.command import one_line
from shards.support.plugin_source import COPIES, HASH_DIGITS, Importer, PluginSource, sources
from shards.support.registry import Table, tables

# Folders in which child processes look for plugins whose hash they know.
SEARCH = "DISTIL_PLUGINS"
SPEC = re.compile(rf"([A-Za-z_]\w*)(?:@([0-9a-f]{{{HASH_DIGITS}}}))?", re.ASCII)
Entries = list[tuple[Table[Any], dict[str, Any]]]  # of every table
PROJECT = ("shards", "trainers", "sweep", "distilsweep")


@dataclass(frozen=True)
class _Loaded:
    """A plugin that was imported, and the entries that it registered."""

    source: PluginSource
    importer: Importer
    entries: list[tuple[Table[Any], str]] = field(default_factory=lambda: [])


_LOADED: dict[str, _Loaded] = {}
_LOCK = threading.RLock()


def load_plugins(
    specs: object, beside: str | Path | None = None, recorded: bool = False
) -> tuple[str, ...]:
    """Import plugins that are not imported yet; returns MODULE@HASH of each.

    specs: a list of MODULE or MODULE@HASH. beside: a folder that is searched before sys.path.
    recorded: whether `specs` come from a file that others may have written, which may only name
    sources by their hash. A plugin whose source has changed since it was imported is imported anew.
    Raises: ValueError, one line, where a plugin is not found, has another hash, cannot be imported,
        registers nothing, or registers a name that is registered already.
    """
    if not isinstance(specs, list | tuple):
        shown = one_line(str(specs))
        raise ValueError(f"plugins: expected a list of modules, such as [mine]; found `{shown}`")
    found: list[str] = []
    with _LOCK:
        for spec in cast("list[object]", specs):
            parts = SPEC.fullmatch(spec) if isinstance(spec, str) else None
            if parts is None:
                raise ValueError(
                    f"plugins: `{one_line(str(spec))}`; write the name of a module or a package, "
                    "without dots and without .py"
                )
            if recorded and parts[2] is None:
                raise ValueError(f"plugins: `{spec}` in a record; expected MODULE@HASH")
            found.append(_load(parts[1], parts[2], beside).source.spec)
    return tuple(dict.fromkeys(found))


def keep_copies(location: str, specs: Sequence[str]) -> list[str]:
    """Copy loaded plugins (MODULE@HASH) into LOCATION/plugins/, a path or a URL.

    Returns the path of each one's module or package there. Raises: OSError.
    """
    chosen = [_LOADED[spec.partition("@")[0]].source for spec in specs]
    return [storage.join(source.copy_to(location), source.path.name) for source in chosen]


# ---- one plugin ----


def _load(name: str, digest: str | None, beside: str | Path | None) -> _Loaded:
    loaded = _LOADED.get(name)
    if loaded and loaded.source.digest == digest:
        return loaded
    source = _find(name, digest, beside)
    # Child processes look here first.
    os.environ[SEARCH] = os.pathsep.join(dict.fromkeys([str(source.folder), *_known_folders()]))
    if loaded:
        if loaded.source.digest == source.digest:
            return loaded
        _forget(loaded)
    _LOADED[name] = _import(source)
    return _LOADED[name]


def _find(name: str, digest: str | None, beside: str | Path | None) -> PluginSource:
    """Raises: ValueError where there is no source, or none with this hash."""
    folders = [*([] if beside is None else [beside]), *(folder or "." for folder in sys.path)]
    if digest is None:
        found = next(sources(name, folders), None)
        if found is not None:
            return found
        place = "on sys.path" if beside is None else f"in {Path(beside).resolve()} or on sys.path"
        raise ValueError(f"plugins: no {name}.py and no {name}/__init__.py {place}")
    others: list[PluginSource] = []
    for source in sources(name, [*_known_folders(), *folders]):
        if source.digest == digest:
            return source
        others.append(source)
    instead = f"{others[0].path} has {others[0].digest}" if others else "none is on sys.path"
    raise ValueError(
        f"plugins: `{name}` with hash {digest} is needed, but {instead}; a copy is in "
        f"{COPIES}/{name}-{digest} of the run or the bank: read it, then put that folder on "
        "PYTHONPATH"
    )


def _known_folders() -> list[str]:
    return [folder for folder in os.environ.get(SEARCH, "").split(os.pathsep) if folder]


def _import(source: PluginSource) -> _Loaded:
    """Import a plugin and note what it registers; where it is refused nothing of it remains."""
    if source.name in sys.modules:
        raise ValueError(
            f"plugins: `{source.name}` is imported already, not as a plugin; let `plugins` import "
            "it, or choose another name"
        )
    before = [(table, dict(table)) for table in tables()]
    loaded = _Loaded(source, Importer(source))
    sys.meta_path.insert(0, loaded.importer)
    Table.importing = True
    try:
        importlib.import_module(source.name)
        _check_imports(source)
        loaded.entries.extend(_registered(before))
        if not loaded.entries:
            raise ValueError(
                f"{source.path}: registers nothing; a plugin adds an entry to a table, see "
                "docs/extending.md"
            )
    except (Exception, SystemExit) as error:
        _restore(before)
        _forget(loaded)
        raise ValueError(f"plugins: {_where(error, source)}{_reason(error)}") from None
    finally:
        Table.importing = False
    for table, name in loaded.entries:
        table.plugins[name] = source.spec
    return loaded


def _forget(loaded: _Loaded) -> None:
    """Remove a plugin's entries and modules."""
    _LOADED.pop(loaded.source.name, None)
    if loaded.importer in sys.meta_path:
        sys.meta_path.remove(loaded.importer)
    for table, name in loaded.entries:
        table.pop(name, None)
        table.plugins.pop(name, None)
    for name, _ in _modules(loaded.source):
        del sys.modules[name]


def _modules(source: PluginSource) -> list[tuple[str, ModuleType]]:
    """The imported modules of a plugin."""
    return [(n, m) for n, m in sys.modules.items() if n.partition(".")[0] == source.name]


# ---- what it registers ----


def _registered(
    before: Entries,
) -> Iterator[tuple[Table[Any], str]]:
    """(table, name) of each new entry. Raises: ValueError for one that replaces another.

    Assignments have been checked as they were made; other methods of a dict are noticed here.
    """
    known = {id(table): entries for table, entries in before}
    for table in tables():
        entries = known.get(id(table), table.initial)
        for name, entry in entries.items():
            if table.get(name) is not entry:
                raise ValueError(f"{table.kind} `{name}` is registered already; it must stay")
        for name in table.keys() - entries.keys():
            if table.closed:
                table.check_new(name)
            yield table, name


def _restore(before: Entries) -> None:
    known = {id(table): entries for table, entries in before}
    for table in tables():
        entries = known.get(id(table), table.initial)
        table.clear()
        table.update(entries)


# ---- what it imports ----


def _check_imports(source: PluginSource) -> None:
    """Raises: ValueError where a module of the plugin has something of a file that is not its own,
    nor of an installed library."""
    for name, module in _modules(source):
        for value in tuple(vars(module).values()):
            home = value.__name__ if isinstance(value, ModuleType) else None
            home = home or getattr(value, "__module__", None)
            other = sys.modules.get(home) if isinstance(home, str) else None
            file = getattr(other, "__file__", None)
            if isinstance(file, str) and not _is_known(str(home), file, source):
                raise ValueError(
                    f"module {name} uses {file}, which is neither installed nor part of the "
                    f"plugin; make a package `{source.name}` of both"
                )


def _is_known(name: str, file: str, source: PluginSource) -> bool:
    if name.partition(".")[0] in (*PROJECT, source.name):
        return True
    places = {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}
    places.add(site.getusersitepackages())
    path = Path(file)
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or any(path.is_relative_to(place) for place in places)


# ---- errors ----


def _where(error: BaseException, source: PluginSource) -> str:
    """`FILE:LINE: ` of the plugin's line that failed, "" where none did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    own = {str(source.folder / file) for file in source.files}
    lines = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in own]
    return f"{lines[-1].filename}:{lines[-1].lineno}: " if lines else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    text = one_line(str(error))
    return text if type(error) is ValueError else f"{type(error).__name__}: {text}"
