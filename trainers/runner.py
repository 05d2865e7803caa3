"""Run one trial from start to end: read a bank, train, measure, store the result."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from shards.arms import make_arm
from shards.bank.order import keyed_order
from shards.support import storage
from shards.support.lease import Lease, LeaseError
from shards.support.plugins import keep_copies
from shards.support.retry import expect
from trainers.canonical import load_config, make_config
from trainers.config.recipe import check_recipe
from trainers.config.schema import TrialConfig
from trainers.engines import ENGINES, check_engine, choose_device
from trainers.engines.base import Engine
from trainers.engines.launch import (
    ELSEWHERE,
    OVER_TIME,
    PREEMPTED,
    Launcher,
    RankError,
    launch,
    rank_of_environment,
)
from trainers.inputs import TrialInputs, TrialSplits, resolve
from trainers.objectives import make_objective, needs_second_view
from trainers.objectives.targets import make_target
from trainers.probes import check_arms, check_train_labels
from trainers.probes.intermediate import IntermediateProbes
from trainers.probes.observer import Observer
from trainers.results.folder import RESULT, STUDENT, finished, tidy, trial_folder
from trainers.results.lacking import lacking
from trainers.results.lease import Behalf, lease_folder, take_trial
from trainers.results.measured import measure_trial, student_files, student_to_measure
from trainers.results.record import TrialResult
from trainers.results.reprobed import outdated
from trainers.results.trial_journal import TrialJournal, error_line, note_failure
from trainers.students import build_student
from trainers.students.base import Student
from trainers.students.teacher_pca import has_no_network
from trainers.training.checkpoint import Checkpoints, owner_of
from trainers.training.compile import apply_performance_options, eager
from trainers.training.data import Data
from trainers.training.divergence import DivergedError
from trainers.training.ending import Ending, TimeLimitError
from trainers.training.loop import Trained, train
from trainers.training.preemption import PreemptedError, PreemptionHandler
from trainers.training.state import Reporter, Saver
from trainers.training.wrappers import wrap_student

STANDARD_INPUT = "-"  # in place of TRIAL.yaml
DIVERGED = 3  # exit status of a trial that has diverged


def run_trial(
    config: TrialConfig,
    bank: str,
    root: str,
    report: Reporter = lambda values: None,
    *,
    device: str = "auto",
    save_seconds: float | None = None,
    reading: str = "auto",
    behalf: Behalf | None = None,
    time_limit: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    launcher: Launcher | None = None,
) -> TrialResult | None:
    """Train a student, measure it and store the result, which is also returned.

    result.json is written last of all files, so a trial that has one is finished: its stored
    result is returned and nothing is computed. Only the first rank measures and writes; the other
    ranks return None.

    Args:
        config: the trial.
        bank: path or URL of the bank that it reads.
        root: path or URL of the folder under which trials/IDENTITY/ is written.
        report: called with a row of values after every epoch, see Reporter, once the row is in the
            trial's journal (`trainers.results.trial_journal`).
        device: auto, cpu, cuda or cuda:INDEX.
        save_seconds: seconds between checkpoints; None: as seldom as is cheap, see Saver.
        reading: resident, streaming or auto, see `trainers.inputs.TrialInputs.load`.
        behalf: on whose behalf the trial runs, see Behalf.
        time_limit: seconds after which training ends, with its state saved; None: no limit.
        stop: once it returns true, the trial ends as after SIGTERM.
        launcher: starts the ranks of a trial with several; None: all on this machine.

    Raises:
        ValueError: where the bank does not hold what the trial needs, or this machine cannot run
            the trial.
        DivergedError: where the loss, the weights or the student's outputs are not finite.
        RankError: where one rank of several failed.
        PreemptedError: in the main thread after SIGTERM, or once `stop` is true; during training
            the state is saved first.
        StoppedError: where `sweep.stop` asked this trial to end; its state is saved.
        TimeLimitError: where `time_limit` was reached; its state is saved.
        LeaseError: where another process runs the trial, or has taken it over from this one.
        OSError: where a file cannot be read or written.
    """
    _check_started(config)
    behalf = behalf or Behalf()
    if behalf.token:  # the sweep has reached both
        expect(root)
        expect(bank)
    inputs = resolve(config, bank)
    stored = _stored_result(inputs, root)
    if stored is not None:
        if not rank_of_environment():
            tidy(root, config)
        return stored
    check_recipe(config.recipe)
    if launcher is None:  # else each rank checks its own machine
        check_engine(config, choose_device(device))
    with (
        PreemptionHandler(stop) as preempted,
        _failure_noted(trial_folder(root, config), config),
        Ending(preempted, time_limit).named() as ending,
    ):
        # An engine with ranks, and this process is none of them: start the ranks and wait.
        if config.engine != "single" and rank_of_environment() is None:
            options = {"device": device, "reading": reading}
            if save_seconds is not None:
                options["save-seconds"] = str(save_seconds)
            if time_limit is not None:
                options["time-limit"] = str(time_limit)
            ending.limit = None  # the ranks apply it: only they know when training has ended
            ending.lease_folder = lease_folder(root, config)
            return _run_ranks(inputs, root, options, report, ending, behalf, launcher or launch)
        chosen = choose_device(device)
        torch.set_num_threads(config.threads)
        with _lease(root, config, behalf) as lease:
            ending.lease = lease
            # A holder before this one may have finished the trial since it was looked for.
            if lease is not None and lease.generation > 1:
                stored = _stored_result(inputs, root)
            if stored is None:
                stored = _run(inputs, root, chosen, report, ending, save_seconds, reading, lease)
            elif config.ranks > 1:  # the other ranks wait for this one
                raise LeaseError(f"trial {config.identity} was finished by another process")
            if lease is not None:
                tidy(root, config)
        return stored


def run(
    config: TrialConfig | Mapping[str, Any] | str | Path,
    bank: str,
    out: str = "runs/trial",
    report: Reporter = lambda values: None,
    *,
    device: str = "auto",
    reading: str = "auto",
) -> TrialResult:
    """`python -m trainers.trial` as a function: train, measure and store one trial.

    config: its fields, or a YAML file of them. report, device, reading: see `run_trial`, whose
    errors it raises as well.
    """
    if isinstance(config, str | Path):
        config = load_config(str(config))
    elif not isinstance(config, TrialConfig):
        config = make_config(config)
    result = run_trial(config, bank, out, report, device=device, reading=reading)
    assert result is not None  # only ranks that others have started return None
    return result


def _check_started(config: TrialConfig) -> None:
    """Raises: ValueError in a rank that was started with more or fewer than the trial has."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if rank_of_environment() is None or started == config.ranks:
        return
    remedy = f"start {config.ranks}"
    if config.ranks == 1:
        # Of a trial that trains nothing, engine and ranks are at their defaults, whatever was set.
        remedy = "start it without torchrun"
        remedy += f", or set `engine: ddp` and `ranks: {started}`" if config.trains else ""
    raise ValueError(f"ranks: {started} were started, the trial has {config.ranks}; {remedy}")


def _lease(
    root: str, config: TrialConfig, behalf: Behalf
) -> contextlib.AbstractContextManager[Lease | None]:
    """The trial's lease, which its first rank holds; None on the others. Raises: LeaseError."""
    return contextlib.nullcontext() if rank_of_environment() else take_trial(root, config, behalf)


def _run(
    inputs: TrialInputs,
    root: str,
    device: torch.device,
    report: Reporter,
    ending: Ending,
    save_seconds: float | None,
    reading: str,
    lease: Lease | None,
) -> TrialResult | None:
    """Train, measure and store the trial. Only the first rank, which has the lease, returns it."""
    config, folder = inputs.config, trial_folder(root, inputs.config)
    with contextlib.ExitStack() as stack:
        journal = None
        if lease is not None:
            journal = TrialJournal(folder, config, report, lease.check)
            stack.callback(journal.leave)
            keep_copies(root, config.plugins)
            journal.start()
        check_arms(inputs)
        splits = inputs.load(device, reading)
        clean = splits.clean_train
        labels_N = clean.labels_N[keyed_order(clean.keys)]
        check_train_labels(config.probes, labels_N, config.dataset)
        owner = owner_of(config, inputs.source)
        checkpoints = Checkpoints(storage.join(folder, "checkpoints"), owner, lease)
        student = trained = None
        if not has_no_network(config.student):
            saver = Saver(checkpoints, save_seconds, stop=ending)
            if journal is not None:
                saver.resumed, saver.restored = journal.resumed, journal.restored
            with ENGINES[config.engine](device) as engine, ending.preempted.deferred():
                trained = train_student(splits, engine, saver, journal.epoch if journal else report)
            if journal is None:
                return None
            journal.flush()
            trained = replace(trained, epochs=journal.stamped(trained.epochs))
            device = engine.device
            student = student_to_measure(splits, trained, device)
        assert lease is not None  # a student without a network has one rank
        assert journal is not None
        return _measure_and_store(splits, student, trained, device, root, journal, lease)


def _measure_and_store(
    splits: TrialSplits,
    student: Student | None,
    trained: Trained | None,
    device: torch.device,
    root: str,
    journal: TrialJournal,
    lease: Lease,
) -> TrialResult:
    """Measure the student, and store it and the result, which is the last of all files."""
    inputs, config = splits.inputs, splits.inputs.config
    folder = trial_folder(root, config)
    with eager(config):
        result = measure_trial(splits, student, trained, device, root)
    if student is not None:
        files = student_files(student, config, inputs.teacher.dim, inputs.preprocess.size)
        lease.publish_folder(storage.join(folder, STUDENT), files)
    journal.finished(inputs.bank)
    journal.flush()
    lease.publish(storage.join(folder, RESULT), storage.encoded_json(result.as_json()))
    return result


@contextlib.contextmanager
def _failure_noted(folder: str, config: TrialConfig) -> Iterator[None]:
    """Note an exception of the body in the trial's journal, in the process that began the trial."""
    try:
        yield
    except (PreemptedError, LeaseError):
        raise  # the trial goes on: later, or in the process that has taken it over
    except Exception as error:
        if not rank_of_environment():
            # What is raised matters more than a store that does not take the note of it.
            with contextlib.suppress(OSError, ValueError):
                note_failure(folder, config, error_line(error))
        raise


def train_student(splits: TrialSplits, engine: Engine, saver: Saver, report: Reporter) -> Trained:
    """Build student, target, data and objective, and train. Raises: as `train`; ValueError."""
    inputs, config = splits.inputs, splits.inputs.config
    dim, size, classes = inputs.teacher.dim, inputs.preprocess.size, len(inputs.classes)
    student = build_student(config.student, dim, size, config.seed)
    model = wrap_student(config, student, dim, classes)
    apply_performance_options(model, config, engine.device, size)
    with threadpool_limits(config.threads):
        target = make_target(config.target, splits.clean_train, classes)
    arm = make_arm(config.arm)
    two_views = needs_second_view(config.objective, config.objective_fields)
    data = Data(splits.train, arm, inputs.preprocess, engine.device, target, two_views)
    observe = None
    if config.curve_every is not None and engine.rank == 0:
        observe = Observer(splits, engine.device)
    probe = None
    if config.probe_at and engine.rank == 0:
        probe = IntermediateProbes(splits, engine.device, saver.stop)
    objective = make_objective(config.objective, config.objective_fields)
    return train(config, model, objective, data, engine, saver, report, observe, probe)


def _stored_result(inputs: TrialInputs, root: str) -> TrialResult | None:
    """The stored result of the trial, None where it is not finished.

    A probe whose code has changed since is named on stderr, and so are test arms of which the bank
    holds the teacher and the result has no values. The stored values stay valid.

    Raises: ValueError where the result was computed from other samples than the bank holds.
    """
    folder = trial_folder(root, inputs.config)
    result = finished(root, inputs.config)
    if result is None:
        return None
    if result.source != inputs.source:
        raise ValueError(
            f"{folder}: finished on other images, augmentation parameters, prompts or teacher "
            f"weights ({result.source[:16]}) than the bank {inputs.bank} holds "
            f"({inputs.source[:16]}); choose another --out or delete it"
        )
    for probe, (measured_by, current) in outdated(result).items():
        print(
            f"warning: {folder}: `{probe}` was measured by version {measured_by}, this code has "
            f"{current}; python -m trainers.probe measures it again",
            file=sys.stderr,
        )
    for probe, arms in lacking(result.probes, inputs.config, inputs.manifest).items():
        print(
            f"warning: {folder}: measured on a bank without the teacher under {', '.join(arms)}, "
            f"which {inputs.bank} holds; python -m trainers.probe {folder} --probe {probe} --bank "
            f"{inputs.bank} measures it",
            file=sys.stderr,
        )
    return result


def _run_ranks(
    inputs: TrialInputs,
    root: str,
    options: dict[str, str],
    report: Reporter,
    ending: Ending,
    behalf: Behalf,
    launcher: Launcher,
) -> TrialResult:
    """Run the trial as one process for each rank; the first rank writes the result.

    The ranks read the trial as one JSON document from standard input.
    Raises: DivergedError, PreemptedError, TimeLimitError, LeaseError or RankError, as the first
    rank that failed ended.
    """
    config = inputs.config
    arguments = [STANDARD_INPUT, "--bank", inputs.bank, "--out", root]
    for name, value in options.items():
        arguments += [f"--{name}", value]
    arguments += ["--token", behalf.token]
    for gone in behalf.gone:
        arguments += ["--gone", gone]
    try:
        with ending.preempted.deferred():
            document = config.model_dump_json()
            launcher(config.ranks, arguments, report, stop=ending, document=document)
    except RankError as error:
        if error.code == DIVERGED:
            raise DivergedError(error.message) from None
        if error.code == PREEMPTED:
            raise PreemptedError(error.message) from None
        if error.code == OVER_TIME:
            raise TimeLimitError(error.message) from None
        if error.code == ELSEWHERE:
            raise LeaseError(error.message) from None
        raise
    result = finished(root, config)
    if result is None:
        raise RuntimeError("all ranks ended without an error, but there is no result.json")
    return result
