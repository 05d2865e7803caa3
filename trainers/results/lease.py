"""Who runs a trial: its lease in the store, `trials/IDENTITY/lease/`, see `shards.support.lease`.

The process of a trial's first rank holds it from before the training until the result is stored.
Two commands, or two machines, that have the same trial to run therefore do not run it twice.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from shards.support import storage
from shards.support.lease import EXPIRES, Claim, HeldError, Lease, Observer, ours, wait_and_take
from trainers.config.schema import TrialConfig
from trainers.results.folder import trial_folder

LEASE = "lease"


@dataclass(frozen=True)
class Behalf:
    """On whose behalf a trial is run.

    Attributes:
        token: of the sweep; empty for a trial alone. A sweep that starts a trial again names the
            token that the earlier attempt had, and so does not wait for its lease to expire.
        gone: holders, and tokens of sweeps, that are known to have ended.
    """

    token: str = ""
    gone: tuple[str, ...] = ()


def lease_folder(root: str, config: TrialConfig) -> str:
    """ROOT/trials/IDENTITY/lease, as `sweep.stop` builds it too."""
    return storage.join(trial_folder(root, config), LEASE)


def take_trial(root: str, config: TrialConfig, behalf: Behalf) -> Lease:
    """Take the lease of a trial; where a process holds it, wait until it is clear that it is alive.

    Raises: HeldError, with who runs the trial, where it is alive; OSError.
    """
    claim = ours(f"trial {config.identity}", behalf.token)
    gone = (*behalf.gone, behalf.token) if behalf.token else behalf.gone
    try:
        return wait_and_take(lease_folder(root, config), claim, gone, notice=_say)
    except HeldError as error:
        held = error.claim
        raise HeldError(
            f"trial {config.identity} is run by {held.process} since {held.since}; wait for it to "
            "end, or end that process",
            held,
        ) from None


def holder(root: str, config: TrialConfig, observer: Observer | None = None) -> Claim | None:
    """Who holds the lease of a trial, dead or alive; None where it is free.

    observer: what watches the lease, if anything does. Raises: OSError.
    """
    _, claim = (observer or Observer()).read(lease_folder(root, config))
    return None if claim is None or claim.released else claim


def _say(claim: Claim) -> None:
    print(
        f"{claim.what}: {claim.process} had it since {claim.since}; waiting up to {EXPIRES:g} s "
        "for a sign of life",
        file=sys.stderr,
    )
