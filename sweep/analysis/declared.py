"""claims.json: which claims a run was declared to test, frozen before its first trial.

Each change of a grid's claims or seeds adds a declaration; none is ever removed. So a report can
say which claims were there before the first trial, which came later (post hoc), and whether seeds
were added after results had been seen. The text itself is kept, so that a run can be judged
wherever its folder is. The store holds a copy, sweeps/ID.claims, for those who see the store alone,
and for the run itself once its folder is lost.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shards.support import storage
from shards.support.schema import StrictModel
from sweep.analysis.checked import open_questions, without_repeats, wrong_claim
from sweep.analysis.claims import Claim, Claims, read_claims
from sweep.grids import CLAIMS, named_claims
from sweep.journal.events import NAME, ResultEvent, read_events
from sweep.journal.run_record import SWEEPS, find_sweep
from trainers.config.schema import TrialConfig

FILE = "claims.json"


class Declaration(StrictModel):
    """What was declared when a sweep started.

    grid: its name. sha256: of the claims file, whose text follows. trials: identities of the grid's
    trials. seeds: of each combination. begun: whether any of those trials had begun by then.
    results: how many of them had a result by then.
    """

    grid: str
    sha256: str
    text: str
    trials: tuple[str, ...]
    seeds: tuple[int, ...]
    begun: bool
    results: int


class Declarations(StrictModel):
    """The content of claims.json, in the order in which they were made."""

    declarations: tuple[Declaration, ...] = ()


@dataclass(frozen=True)
class Family:
    """The claims of one grid as they are to be judged.

    claims: those declared before the first trial, also where they were removed later, then those
    that are post hoc. post_hoc: sha256 of the latter. trials: identities of the grid's trials.
    looks: seeds a group at each look at results. sha256: of the file before the first trial.
    remarks: what later versions of the file wanted that does not count.
    """

    grid: str
    claims: Claims
    post_hoc: frozenset[str]
    trials: frozenset[str]
    looks: tuple[int, ...]
    sha256: str
    remarks: tuple[str, ...] = ()


# ---- before a sweep ----


def claims_text(grid: str) -> tuple[str, str] | None:
    """(YAML text, where it was read) of the claims beside a grid, as given to `--grid`; or None."""
    if grid.endswith((".yaml", ".yml")) or "/" in grid:
        file = Path(grid).with_suffix(CLAIMS)
        return (file.read_text(), str(file)) if file.is_file() else None
    text = named_claims(grid)
    return None if text is None else (text, f"{grid}{CLAIMS}")


def checked_claims(grid: str, trials: Iterable[TrialConfig]) -> tuple[str, list[str]] | None:
    """(YAML text of the claims beside a grid, a line on each that cannot be decided), or None.

    Raises: as `check_claims`.
    """
    found = claims_text(grid)
    return None if found is None else (found[0], check_claims(*found, trials))


def show_notes(claims: tuple[str, list[str]] | None) -> None:
    """Print the notes of `checked_claims`."""
    for note in claims[1] if claims else ():
        print(f"claims:  {note}", file=sys.stderr)


def check_claims(text: str, source: str, trials: Iterable[TrialConfig]) -> list[str]:
    """Read the claims, and say in one line each what these trials cannot decide.

    Raises: ValueError, of one line, for a file that cannot be read, or a claim that no outcome of
    these trials could decide: see `checked.wrong_claim`.
    """
    claims, trials = read_claims(text, source), list(trials)
    once = without_repeats(claims, trials)
    if wrong := wrong_claim(claims, once):
        raise ValueError(f"{source}: {wrong}")
    return open_questions(claims, once, seeds=len({config.seed for config in trials}))


def sha256_of(text: str) -> str:
    """The hash that tells versions of a claims file apart."""
    return hashlib.sha256(text.encode()).hexdigest()


def record_claims(
    folder: Path, grid: str, text: str, trials: Iterable[TrialConfig], store: str, id: str
) -> None:
    """Add a declaration to claims.json of `folder`, unless the last one of this grid is the same.

    store: where the trials' folders lie; one that exists has begun, whoever started it. id: of the
    run, under which the store keeps a copy.
    Raises: ValueError where claims.json or the journal is not readable; OSError.
    """
    trials = list(trials)
    identities = tuple(sorted(config.identity for config in trials))
    seeds = tuple(sorted({config.seed for config in trials}))
    sha256 = sha256_of(text)
    before = _read(str(folder))
    own = [d for d in before.declarations if d.grid == grid]
    if own and (own[-1].sha256, own[-1].trials, own[-1].seeds) == (sha256, identities, seeds):
        return
    named = {identity for d in own for identity in d.trials} | set(identities)
    begun = named & set(storage.names(storage.join(store, "trials")))
    results: set[str] = set()
    for _, event in read_events(folder / NAME):
        begun |= named & {event.trial}
        results |= named & {event.trial} if isinstance(event, ResultEvent) else set()
    new = Declaration(
        grid=grid,
        sha256=sha256,
        text=text,
        trials=identities,
        seeds=seeds,
        begun=bool(begun),
        results=len(results),
    )
    after = Declarations(declarations=(*before.declarations, new))
    # The store first: a folder in which nothing has changed would keep the copy from being written.
    for file in (_copy(store, id), str(folder / FILE)):
        storage.write_json(file, after.model_dump(mode="json"))


# ---- afterwards ----


def declared(location: str) -> list[Family]:
    """The families of claims of a run, one a grid; none where the run has no claims.json.

    location: a run folder, or a store that holds a single sweep.
    Raises: ValueError where the file is not readable; OSError.
    """
    declarations = _read(location).declarations
    return [
        _family([d for d in declarations if d.grid == grid])
        for grid in dict.fromkeys(d.grid for d in declarations)
    ]


def _family(own: list[Declaration]) -> Family:
    # The last declaration before the first trial counts, by its position: an earlier one may be
    # equal to it, and what was declared between the two was withdrawn in time: claims and seeds.
    before = max((i for i, d in enumerate(own) if not d.begun), default=None)
    first = None if before is None else own[before]
    frozen = read_claims(first.text, f"{first.grid}{CLAIMS}") if first else None
    kept: list[Claim] = list(frozen.claims) if frozen else []
    known = {claim.sha256 for claim in kept}
    late: list[Claim] = []
    later = own if before is None else own[before + 1 :]
    rules = frozen or read_claims(own[0].text, f"{own[0].grid}{CLAIMS}")
    remarks: list[str] = []
    for declaration in later:
        read = read_claims(declaration.text, f"{declaration.grid}{CLAIMS}")
        for claim in read.claims:
            if claim.sha256 not in known:
                known.add(claim.sha256)
                late.append(claim)
        if read.alpha != rules.alpha:
            remarks.append(
                f"alpha {read.alpha:g} of a later claims file is ignored: it was declared as "
                f"{rules.alpha:g}"
            )
        if read.looks != rules.looks:
            remarks.append(
                f"looks {list(read.looks)} of a later claims file are ignored: declared were "
                f"{list(rules.looks) or 'none'}"
            )
    valid = own if before is None else own[before:]
    looks: list[int] = []
    seeds: set[int] = set()
    for declaration in valid:
        seeds |= set(declaration.seeds)
        looks = [*looks, len(seeds)] if declaration.results else [len(seeds)]
    return Family(
        grid=own[0].grid,
        claims=Claims(alpha=rules.alpha, looks=rules.looks, claims=(*kept, *late)),
        post_hoc=frozenset(claim.sha256 for claim in late),
        trials=frozenset(identity for d in valid for identity in d.trials),
        looks=tuple(looks),
        sha256=(first or own[0]).sha256,
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _copy(store: str, id: str) -> str:
    """Where the store keeps claims.json of a run."""
    return storage.join(store, SWEEPS, f"{id}.claims")


def _read(location: str) -> Declarations:
    file = storage.join(location, FILE)
    if not storage.exists(file):
        try:
            store, sweep = find_sweep(location)
        except ValueError:
            return Declarations()  # a run that has not begun, or several sweeps on one store
        file = _copy(store, sweep.id)
        if not storage.exists(file):
            return Declarations()
    try:
        return Declarations.model_validate(json.loads(storage.read(file)))
    except ValueError as error:
        raise ValueError(f"{file}: not readable ({' '.join(str(error).split())})") from None
