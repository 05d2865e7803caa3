"""grid.json: which grids a run folder holds the trials of.

The trials of two grids in one folder would be compared with each other in one report, which is
seldom what was meant. So a second grid is refused unless `--add` is given. Grids are identified by
name: one that has grown, or that the command line changes with `--set` or `--seeds`, is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from shards.support import storage
from shards.support.schema import StrictModel, parsed
from sweep.planning.grid import Grid
from trainers.config.schema import TrialConfig

FILE = "grid.json"


class RecordedGrid(StrictModel):
    """A grid by name; `sha256` is that of the identities of its trials when it last started."""

    name: str
    sha256: str


class RecordedGrids(StrictModel):
    """The content of grid.json, in the order in which the grids were started."""

    grids: tuple[RecordedGrid, ...] = ()


def check_grid(folder: Path, grid: Grid, add: bool) -> None:
    """Check that the sweep in `folder` is one of this grid, has no grid yet, or that `add` is set.

    Raises: ValueError naming the folder's grids; ValueError where grid.json is not readable.
    """
    names = [recorded.name for recorded in _read(folder).grids]
    if names and grid.name not in names and not add:
        raise ValueError(
            f"{folder}: holds the trials of grid {', '.join(f'`{name}`' for name in names)}, this "
            f"one is `{grid.name}`; choose another --out, or --add to put both into one report"
        )


def record_grid(folder: Path, grid: Grid, trials: Iterable[TrialConfig]) -> None:
    """Write the grid into grid.json of `folder`, in place of an earlier state of the same grid."""
    text = "\n".join(sorted(config.identity for config in trials))
    new = RecordedGrid(name=grid.name, sha256=hashlib.sha256(text.encode()).hexdigest())
    before = _read(folder)
    if new in before.grids:
        return
    others = tuple(recorded for recorded in before.grids if recorded.name != grid.name)
    after = RecordedGrids(grids=(*others, new))
    storage.write_json(str(folder / FILE), after.model_dump(mode="json"))


def _read(folder: Path) -> RecordedGrids:
    path = folder / FILE
    if not path.exists():
        return RecordedGrids()
    return parsed(RecordedGrids, path.read_bytes(), str(path))
