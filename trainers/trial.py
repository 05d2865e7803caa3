"""One trial from start to end: read a bank, train a student, measure it, store the result.

    python -m trainers.trial TRIAL.yaml --bank bank --out runs/one
    torchrun --nproc-per-node 2 -m trainers.trial TRIAL.yaml --bank bank --out runs/one

TRIAL.yaml holds the fields of a trial, listed in docs/configuration.md. The result is written to
OUT/trials/IDENTITY/result.json, where IDENTITY is a hash of those fields. For a finished trial the
same command prints the stored result without training; an interrupted one continues from its newest
checkpoint.

Exit status:
    0   the result is stored
    1   a rank died or waited too long for the others, or the time limit was reached
    2   bad input: a field, an option, or a bank that does not hold what the trial needs
    3   the loss, the weights or the student's outputs became NaN or infinite
    4   ended by SIGTERM or sweep.stop: the state is saved, and the same command continues
    5   a step did not end in time; the same command continues
    6   another process runs this trial
    7   the object store did not answer; the same command continues
torchrun reports its own exit status in place of these.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, TextIO

from shards.bank.reader import load_manifest
from shards.support import storage
from shards.support.command import above, at_least, command, make_parser, one_line
from shards.support.lease import LeaseError
from shards.support.memory import keep_freed_memory
from shards.support.progress import Progress
from trainers.canonical import load_config, make_config
from trainers.config.lengths import samples_left
from trainers.config.schema import TrialConfig
from trainers.engines.launch import (
    ELSEWHERE,
    OVER_TIME,
    PREEMPTED,
    UNANSWERED,
    RankError,
    rank_of_environment,
    report_line,
)
from trainers.results.folder import RESULT, trial_folder
from trainers.results.lease import Behalf
from trainers.results.record import TrialResult
from trainers.runner import DIVERGED, STANDARD_INPUT, run_trial
from trainers.training.divergence import DivergedError
from trainers.training.ending import TimeLimitError
from trainers.training.preemption import PreemptedError
from trainers.training.state import Reporter


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.trial", __doc__)
    parser.add_argument(
        "trial",
        metavar="TRIAL.yaml",
        help=f"the trial's fields; `{STANDARD_INPUT}` reads one JSON object from standard input",
    )
    parser.add_argument(
        "--bank",
        required=True,
        metavar="DIR-OR-URL",
        help="the shards to train on, written by shards.build",
    )
    parser.add_argument(
        "--out",
        default="runs/trial",
        metavar="DIR-OR-URL",
        help="folder in which trials/IDENTITY/ is written (default: %(default)s)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a GPU if there is one), cpu, cuda or cuda:INDEX (default: %(default)s)",
    )
    parser.add_argument(
        "--reading",
        default="auto",
        choices=("auto", "resident", "streaming"),
        help="keep the shards in memory, read them as needed, or (auto, the default) keep them "
        "where they fit; the result is the same",
    )
    parser.add_argument(
        "--save-seconds",
        type=at_least(0.0),
        metavar="SECONDS",
        help="least time between two checkpoints (default: as often as costs 0.5 %% of the time, "
        "see docs/reliability.md)",
    )
    parser.add_argument(
        "--time-limit",
        type=above(0.0),
        metavar="SECONDS",
        help="end the training after so long, with its state saved (default: no limit)",
    )
    # For ranks, see Behalf.
    parser.add_argument("--token", default="", help=argparse.SUPPRESS)
    parser.add_argument("--gone", action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    keep_freed_memory()
    if options.trial == STANDARD_INPUT:
        config = _config_from(sys.stdin)
    else:
        config = load_config(options.trial)
    try:
        _run_and_print(config, options)
    except PreemptedError as error:
        print(error, file=sys.stderr)
        return PREEMPTED
    except LeaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return ELSEWHERE
    except (DivergedError, RankError, TimeLimitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _status_of(error, options)
    except OSError as error:
        if not storage.may_answer_later(options.out, error):
            raise
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return UNANSWERED
    return 0


def _config_from(stream: TextIO) -> TrialConfig:
    """The trial in one JSON object. Raises: ValueError for other text or wrong fields."""
    try:
        fields = json.load(stream)
    except ValueError as error:
        raise ValueError(f"standard input: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ValueError(f"standard input: expected one JSON object, found `{fields!r:.40}`")
    return make_config(fields, "standard input")


def _status_of(error: Exception, options: argparse.Namespace) -> int:
    """The exit status of a trial that failed by itself."""
    if isinstance(error, DivergedError):
        return DIVERGED
    if isinstance(error, TimeLimitError) and _launched(options):
        return OVER_TIME
    return UNANSWERED if isinstance(error, RankError) and error.code == UNANSWERED else 1


def _launched(options: argparse.Namespace) -> bool:
    """Whether this process is a rank that `launch` started, or its like in a sweep."""
    return options.trial == STANDARD_INPUT and rank_of_environment() is not None


def _run_and_print(config: TrialConfig, options: argparse.Namespace) -> None:
    """Run the trial; show progress, and at the end each metric beside the teacher's.

    Ranks show neither. One that `launch` started prints its reports instead, for the process that
    started it. `torchrun` starts ranks too, but reads nothing from them; its first rank shows both.
    """
    start = time.monotonic()

    def run(report: Reporter) -> TrialResult | None:
        return run_trial(
            config,
            options.bank,
            options.out,
            report,
            device=options.device,
            save_seconds=options.save_seconds,
            reading=options.reading,
            time_limit=options.time_limit,
            behalf=Behalf(options.token, tuple(options.gone)),
        )

    launched = _launched(options)
    if launched or rank_of_environment():

        def report(values: dict[str, Any]) -> None:
            if launched:
                print(report_line(values), flush=True)

        run(report)
        return
    stored_samples = load_manifest(options.bank).plan.dataset.counts["train"]
    train_samples = samples_left(config, stored_samples)
    with Progress(f"trial {config.identity}", config.total_steps(train_samples)) as bar:

        def show(values: dict[str, Any]) -> None:
            bar.update(values["step"], f"epoch {values['epoch']:g}, loss {values['loss']:.4f}")

        result = run(show)
    assert result is not None  # this process is the first rank, or started the ranks
    for name, value in result.metrics.items():
        reference = result.teacher.get(name.replace("test/", "teacher/", 1))
        teacher = "" if reference is None else f"   teacher {reference:.4f}"
        print(f"{name:36s} {value:.4f}{teacher}")
    print(f"{storage.join(trial_folder(options.out, config), RESULT)}")
    print(f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
