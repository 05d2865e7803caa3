"""One trial, start to end: the one place that puts the pieces together.

    python -m trainers.trial TRIAL.yaml --bank bank --out runs/one
    torchrun --nproc-per-node 2 -m trainers.trial TRIAL.yaml --bank bank --out runs/one

TRIAL.yaml holds the fields of trainers.config.schema.TrialConfig. The result is
OUT/trials/<identity>/ result.json; the same command again prints it without training.

Exit status: 0, 1 when a rank died, 2 for inputs that do not fit, 3 when the loss is not finite, 4
when SIGTERM ended it: its state is saved, the same command again continues. torchrun has its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from shards.arms import make_arm
from shards.bank.manifest import Manifest
from shards.bank.reader import load_manifest
from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.progress import Progress
from shards.teachers.preprocess import Preprocess
from trainers.config.schema import TrialConfig, load_config, make_config
from trainers.engines import ENGINES, Engine, check_engine, choose_device
from trainers.engines.launch import PREEMPTED, RankError, launch, rank_of_environment, report_line
from trainers.inputs import check_bank, check_classes
from trainers.objectives import OBJECTIVES
from trainers.objectives.targets import make_target
from trainers.probes.measure import Banks, load_banks
from trainers.probes.observer import Observer
from trainers.results.record import (
    input_of,
    measured,
    source_of,
    store_student,
    student_to_measure,
)
from trainers.results.reprobed import stale
from trainers.students import build_student
from trainers.students.teacher_pca import has_no_network
from trainers.training.checkpoint import Checkpoints, owner_of
from trainers.training.compile import eager, quick
from trainers.training.data import Data
from trainers.training.loop import DivergedError, Reporter, Saver, Trained, train
from trainers.training.preemption import Notice, PreemptedError
from trainers.training.wrappers import learner, sees_two_views

__all__ = ["check_bank", "finished", "run_trial", "source_of", "trial_place"]

RESULT = "result.json"
DIVERGED = 3  # exit status of a trial whose loss is not finite


def trial_place(root: str, config: TrialConfig) -> str:
    return storage.join(root, "trials", config.identity)


def finished(root: str, config: TrialConfig) -> dict[str, Any] | None:
    """The result of a finished trial, or None."""
    place = storage.join(trial_place(root, config), RESULT)
    if not storage.exists(place):
        return None
    try:
        return json.loads(storage.read(place))
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error}); delete it to run the trial again") from None


def tidy(root: str, config: TrialConfig) -> None:
    """Remove the checkpoints of a finished trial, if its process was killed before it did."""
    storage.delete(storage.join(trial_place(root, config), "checkpoints"))


def run_trial(
    config: TrialConfig,
    bank: str,
    root: str,
    report: Reporter = lambda values: None,
    device: str = "auto",
    save_seconds: float = 30.0,
    reading: str = "auto",
) -> dict[str, Any]:
    """Train and measure; the result, also written last of all. Finished trials only return it.

    `reading`: resident, streaming or auto, see `trainers.probes.measure.load_banks`.
    Raises: ValueError for inputs that do not fit, DivergedError, RankError, OSError; in the main
    thread PreemptedError after SIGTERM, while it trains once the state is saved.
    """
    manifest = load_manifest(bank)
    done = _finished_here(config, manifest, bank, root)
    if done is not None:
        if not rank_of_environment():
            tidy(root, config)
        return done
    check_bank(config, manifest, bank)
    check_classes(config, manifest, bank)
    check_engine(config, choose_device(device))
    with Notice() as notice:
        if config.engine != "single" and rank_of_environment() is None:
            return _run_ranks(config, bank, root, report, device, save_seconds, reading, notice)
        chosen = choose_device(device)
        torch.set_num_threads(config.threads)
        banks = load_banks(bank, manifest, config, chosen, reading)
        place = trial_place(root, config)
        owner = owner_of(config, source_of(config, manifest))
        checkpoints = Checkpoints(storage.join(place, "checkpoints"), owner)
        teacher = manifest.plan.teachers[manifest.plan.teacher_index(config.teacher)]
        preprocess, dim = input_of(config, manifest), teacher.dim
        student = trained = None
        if not has_no_network(config.student):
            saver = Saver(checkpoints, save_seconds, stop=notice)
            with ENGINES[config.engine](chosen) as engine, notice.deferred():
                trained = _train(config, banks, preprocess, dim, engine, saver, report)
            if engine.rank > 0:
                return {}
            chosen = engine.device
            student = student_to_measure(config, banks, trained, preprocess, chosen)
        with eager(config):
            result = measured(config, banks, student, trained, preprocess, chosen, root)
        if student is not None:
            store_student(place, student, config, dim, preprocess.size)
        storage.write_json(storage.join(place, RESULT), result)
        tidy(root, config)
        return result


def _train(
    config: TrialConfig,
    banks: Banks,
    preprocess: Preprocess,
    dim: int,
    engine: Engine,
    saver: Saver,
    report: Reporter,
) -> Trained:
    """The student, what it learns from and by, and the loop. Raises: those of `train`."""
    if engine.ranks != config.ranks:
        raise ValueError(f"ranks: {engine.ranks} were started, asked for {config.ranks}")
    student = build_student(config.student, dim, preprocess.size, config.seed)
    model = learner(config, student, dim, len(banks.classes))
    quick(model, config, engine.device, preprocess.size)
    with threadpool_limits(config.threads):
        target = make_target(config.target, banks.clean_train, len(banks.classes))
    two_views, arm = sees_two_views(config), make_arm(config.arm)
    data = Data(banks.train, arm, preprocess, engine.device, target, two_views)
    observe = None
    if config.curve_every is not None and engine.rank == 0:
        observe = Observer(banks, config, preprocess, engine.device)
    objective = OBJECTIVES[config.objective]
    return train(config, model, objective, data, engine, saver, report, observe)


def _finished_here(
    config: TrialConfig, manifest: Manifest, bank: str, root: str
) -> dict[str, Any] | None:
    """The result, if there is one and it was had from what `bank` holds."""
    done = finished(root, config)
    if done is None:
        return None
    source = source_of(config, manifest)
    if done["source"] != source:
        raise ValueError(
            f"{trial_place(root, config)}: finished on other images, draws or teacher weights "
            f"({done['source'][:16]}) than the shards in {bank} hold ({source[:16]}); choose "
            "another --out or delete it"
        )
    for probe, (there, here) in stale(done).items():
        print(
            f"warning: {trial_place(root, config)}: `{probe}` was measured by version {there}, "
            f"this code has {here}; python -m trainers.probe measures it again",
            file=sys.stderr,
        )
    return done


def _run_ranks(
    config: TrialConfig,
    bank: str,
    root: str,
    report: Reporter,
    device: str,
    save_seconds: float,
    reading: str,
    notice: Notice,
) -> dict[str, Any]:
    """The trial as processes of its own, one a rank; the first of them writes the result."""
    arguments = ["--config", config.model_dump_json(), "--bank", bank, "--out", root]
    arguments += ["--device", device, "--save-seconds", str(save_seconds), "--reading", reading]
    try:
        with notice.deferred():
            launch(config.ranks, arguments, report, stop=notice)
    except RankError as error:
        if error.code == DIVERGED:
            raise DivergedError(error.said) from None
        if error.code == PREEMPTED:
            raise PreemptedError(error.said) from None
        raise
    result = finished(root, config)
    if result is None:
        raise RuntimeError("the ranks ended well but left no result")
    return result


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.trial", __doc__)
    parser.add_argument("trial", nargs="?", metavar="TRIAL.yaml")
    parser.add_argument("--config", help=argparse.SUPPRESS)
    parser.add_argument("--bank", required=True, metavar="DIR-OR-URL", help="from shards.build")
    parser.add_argument("--out", default="runs/trial", metavar="DIR-OR-URL")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--reading",
        default="auto",
        choices=("auto", "resident", "streaming"),
        help="keep the shards in memory or read them as needed; the result is the same",
    )
    parser.add_argument("--save-seconds", type=float, default=30.0, help="between checkpoints")
    options = parser.parse_args(argv)
    if not options.trial and not options.config:
        parser.error("TRIAL.yaml is required")
    if options.config:
        config = make_config(json.loads(options.config))
    else:
        config = load_config(options.trial)
    try:
        _run_and_print(config, options)
    except PreemptedError as error:
        print(error, file=sys.stderr)
        return PREEMPTED
    except (DivergedError, RankError) as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED if isinstance(error, DivergedError) else 1
    return 0


def _run_and_print(config: TrialConfig, options: argparse.Namespace) -> None:
    """Progress and result on the first rank only; a parent that watches gets reports instead."""
    place = (options.bank, options.out)
    how = (options.device, options.save_seconds, options.reading)
    start = time.monotonic()
    if options.config or rank_of_environment():

        def tell(values: dict[str, Any]) -> None:
            if options.config:
                print(report_line(values), flush=True)

        run_trial(config, *place, tell, *how)
        return
    train_samples = load_manifest(options.bank).plan.dataset.counts["train"]
    with Progress(f"trial {config.identity}", config.total_steps(train_samples)) as bar:

        def show(values: dict[str, Any]) -> None:
            bar.update(values["step"], f"epoch {values['epoch']:g}, loss {values['loss']:.4f}")

        result = run_trial(config, *place, show, *how)
    for name, value in sorted(result["metrics"].items()):
        reference = result["teacher"].get(name.replace("test/", "teacher/", 1))
        beside = "" if reference is None else f"   teacher {reference:.4f}"
        print(f"{name:36s} {value:.4f}{beside}")
    print(f"{storage.join(trial_place(options.out, config), RESULT)}")
    print(f"{time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
