"""The source of a plugin: one module, or a package with all of its files.

It is read once. Its hash, the modules that Python imports and the copies beside results are all
made from the bytes that were read, so they cannot differ: neither a file that is edited meanwhile
nor a stale `.pyc` can run under the hash of another source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

from shards.support import storage

COPIES = "plugins"  # folder of copies, beside banks/ and trials/
HASH_DIGITS = 16  # of the sha256, as many as the identity of a trial has
LIMIT = 10 * 1024 * 1024  # bytes; more is taken for data that lies in a package by mistake


@dataclass(frozen=True)
class PluginSource:
    """A plugin as it was read.

    name: of its module. folder: where it was found. files: {path in that folder: content}.
    """

    name: str
    folder: Path
    files: dict[str, bytes]

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits of the sha256 of all paths and contents."""
        found = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            found.update(f"{path}\0{len(content)}\0".encode() + content)
        return found.hexdigest()[:HASH_DIGITS]

    @property
    def spec(self) -> str:
        """MODULE@HASH, by which a trial or a bank names it."""
        return f"{self.name}@{self.digest}"

    @property
    def path(self) -> Path:
        """Its file, or the folder of its package."""
        return self.folder / next(iter(self.files)).partition("/")[0]

    def copy_to(self, location: str) -> str:
        """Write it to LOCATION/plugins/MODULE-HASH/, a path or a URL; returns that folder.

        Files that are there are left as they are. Raises: OSError.
        """
        folder = storage.join(location, COPIES, self.spec.replace("@", "-"))
        for path, content in self.files.items():
            file = storage.join(folder, path)
            if not storage.exists(file):
                storage.write(file, content)
        return folder


def sources(name: str, folders: Iterable[str | Path]) -> Iterator[PluginSource]:
    """Plugin `name` in each of the folders that has it. Raises: ValueError where it is too large.

    As for Python itself, a package comes before a module of the same name.
    """
    for folder in (Path(folder).resolve() for folder in folders):
        package, module = folder / name, folder / f"{name}.py"
        if (package / "__init__.py").is_file():
            yield _read(name, folder, sorted(_files(package)))
        elif module.is_file():
            yield _read(name, folder, [module])


def _files(package: Path) -> Iterator[Path]:
    """All files of a package but hidden ones and what Python compiled."""
    for path in package.iterdir():
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix == ".pyc":
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _read(name: str, folder: Path, paths: list[Path]) -> PluginSource:
    size = sum(path.stat().st_size for path in paths)
    if size > LIMIT:
        raise ValueError(
            f"plugins: `{name}` in {folder}: {size:,} bytes, at most {LIMIT:,}; keep data elsewhere"
        )
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return PluginSource(name, folder, files)


class Importer(MetaPathFinder, SourceLoader):
    """Imports the modules of one plugin from the bytes that were read, and never from a `.pyc`."""

    def __init__(self, source: PluginSource) -> None:
        self.source = source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if fullname.partition(".")[0] != self.source.name:
            return None
        base = fullname.replace(".", "/")
        for file, places in ((f"{base}/__init__.py", [base]), (f"{base}.py", None)):
            if file in self.source.files:
                inside = None if places is None else [str(self.source.folder / p) for p in places]
                return spec_from_file_location(
                    fullname,
                    self.source.folder / file,
                    loader=self,
                    submodule_search_locations=inside,
                )
        return None

    def get_filename(self, fullname: str) -> str:
        """See `SourceLoader`."""
        found = self.find_spec(fullname, None)
        if found is None or found.origin is None:
            raise ImportError(f"no module {fullname} in the plugin", name=fullname)
        return found.origin

    def get_data(self, path: str | bytes) -> bytes:
        """The content of a file as it was read. Raises: OSError where there was none."""
        name = Path(str(path)).relative_to(self.source.folder).as_posix()
        if name not in self.source.files:
            raise FileNotFoundError(path)
        return self.source.files[name]
