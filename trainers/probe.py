"""Run probes on a trained student, without training.

    python -m trainers.probe runs/demo --probe spectrum --probe linear      # all finished trials
    python -m trainers.probe runs/demo/trials/0123456789abcdef --probe robustness \\
        --test-arm noise:0.02 --test-arm noise:0.3 --adapt-arm noise:0.3 --test-views 5
    python -m trainers.probe student --probe linear --bank runs/demo/banks/0123456789abcdef
    python -m trainers.probe runs/demo/trials/0123456789abcdef/checkpoints/step-00000120 \\
        --probe spectrum

LOCATION is the folder of a run, of a trial, of a student, or of one checkpoint of an unfinished
trial; a path or a URL. Results are written to probes/NAME-vVERSION.json in the trial's folder (with
a hash in the name where arms or views other than the trial's are given). A file that is up to date
is not computed again. Running `python -m sweep.run` again adds them to journal, MLflow and report.

Without --bank, the shards that the trial was trained on are searched for in the run's banks/
folder. A student's folder alone does not record its training arm: it is measured as if trained on
`clean`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from shards.bank.manifest import Manifest
from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.memory import keep_freed_memory
from shards.support.plugins import load_plugins
from shards.support.progress import Progress
from trainers.canonical import stored_config
from trainers.config.schema import TrialConfig
from trainers.engines import choose_device
from trainers.inputs import TrialSplits
from trainers.probes import PROBES, check_arms
from trainers.probes.feature_banks import projected_features, student_features
from trainers.probes.features import FeatureBank
from trainers.probes.measure import measure, measure_teacher
from trainers.results.folder import read_json
from trainers.results.lacking import lacking
from trainers.results.measured import environment_of, probe_result
from trainers.results.reprobed import (
    Measurement,
    Reprobed,
    parse_reprobed,
    reprobed_file,
    settings_of,
)
from trainers.results.subjects import Subject, locations, subject_at


def probe(
    subject: Subject,
    names: tuple[str, ...],
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    reading: str = "auto",
) -> list[tuple[str, bool]]:
    """Run probes on one student where their result is not stored yet.

    A stored file that was measured on other weights or images, or on a bank without the teacher
    under a test arm that this one holds, is replaced, with a line on stderr.

    Args:
        subject: the student, its trial and its bank.
        names: probes to run.
        changes: fields of the trial to replace for this measurement: test_arms, test_views,
            adapt_arms.
        device: auto, cpu, cuda or cuda:INDEX.
        reading: resident, streaming or auto, see `trainers.inputs.TrialInputs.load`.

    Returns: (file of the result, whether it was measured now) for each probe.

    Raises:
        ValueError: for an unknown probe, a wrong value in `changes`, or a damaged file.
        OSError: where a file cannot be read or written.
    """
    trial = subject.inputs.config
    config = stored_config(trial.model_dump() | {"probes": names} | (changes or {}))
    if "robustness" not in config.probes:
        # Nothing reads them then, and a trial that was made so has them at their default. Here
        # they are part of the settings, which are the trial's.
        config = config.model_copy(update={"adapt_arms": trial.adapt_arms})
    files = {name: reprobed_file(subject.folder, name, config, trial) for name in config.probes}
    wanted = {name: _measurement(subject, config, name) for name in config.probes}
    manifest = subject.inputs.manifest
    missing = [
        name
        for name in config.probes
        if not _is_current(files[name], wanted[name], config, manifest)
    ]
    if missing:
        chosen = choose_device(device)
        torch.set_num_threads(config.threads)
        inputs = replace(subject.inputs, config=config)
        check_arms(inputs)
        splits = inputs.load(chosen, reading, training=False)
        features = _features(subject, splits, chosen)
        for name in missing:
            # Each result is written before the next probe runs, so that an interrupted command
            # loses at most one.
            alone = config.model_copy(update={"probes": (name,)})
            student = measure(features, alone, "test")[name]
            one_probe = replace(splits, inputs=replace(splits.inputs, config=alone))
            reference = measure_teacher(one_probe, subject.root)[name]
            reprobed = Reprobed(
                probe=name,
                settings=settings_of(config, name),
                trial=subject.trial,
                student_sha256=subject.sha256,
                source=subject.inputs.source,
                environment=environment_of(chosen, config),
                values=probe_result(name, student, reference),
            )
            storage.write_json(files[name], reprobed.model_dump(mode="json", by_alias=True))
    return [(files[name], name in missing) for name in config.probes]


def probe_all(
    location: str,
    names: Sequence[str],
    bank: str | None = None,
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    reading: str = "auto",
) -> list[tuple[str, bool]]:
    """`python -m trainers.probe` as a function: probe every student found at `location`.

    location: folder of a run, a trial, a student or a checkpoint; a path or a URL. bank: the shards
    of its trials (default: found in the run's banks/). Others, result and errors: as `probe`.
    """
    for name in names:
        _ = PROBES[name]  # an unknown name is refused before anything is read
    found = locations(location)
    results: list[tuple[str, bool]] = []
    with Progress("students", len(found)) as bar:
        for done, place in enumerate(found, 1):
            subject = subject_at(place, bank)
            results += probe(subject, tuple(names), changes, device, reading)
            bar.update(done)
    return results


def _features(subject: Subject, splits: TrialSplits, device: torch.device) -> FeatureBank:
    if subject.student is None:
        return projected_features(splits)
    channels_last = splits.inputs.config.channels_last
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = subject.student.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    return student_features(model, splits, device)


def _measurement(subject: Subject, config: TrialConfig, name: str) -> Measurement:
    return Measurement(
        probe=name,
        version=PROBES[name].version,
        settings=settings_of(config, name),
        student_sha256=subject.sha256,
        source=subject.inputs.source,
    )


def _is_current(file: str, wanted: Measurement, config: TrialConfig, manifest: Manifest) -> bool:
    """Whether a file holds the wanted measurement; one that holds another is named on stderr.

    One that holds more test arms than the bank does is kept.
    """
    if not storage.exists(file):
        return False
    stored = parse_reprobed(read_json(file), file)
    differing = [name for name, value in wanted if getattr(stored.measurement, name) != value]
    if differing:
        print(f"{file}: replaced, because it has other {', '.join(differing)}", file=sys.stderr)
        return False
    arms = lacking({stored.probe: stored.values}, config, manifest).get(stored.probe, [])
    if arms:
        said = f"it lacks the teacher under {', '.join(arms)}, which the bank holds"
        print(f"{file}: replaced, because {said}", file=sys.stderr)
    return not arms


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.probe", __doc__)
    add = parser.add_argument
    add(
        "location",
        metavar="LOCATION",
        help="folder of a run, a trial, a student or a checkpoint; a path or a URL",
    )
    add(
        "--probe",
        action="append",
        required=True,
        metavar="NAME",
        dest="probes",
        help=f"a probe to run, may be repeated: {', '.join(PROBES)}",
    )
    add(
        "--bank",
        metavar="DIR-OR-URL",
        help="the shards that the trial was trained on (default: found in the run's banks/)",
    )
    for name, what in (("test", "measure under"), ("adapt", "adapt to")):
        add(
            f"--{name}-arm",
            action="append",
            metavar="SPEC",
            dest=f"{name}_arms",
            help=f"{what} this corruption in place of the trial's {name}_arms; may be repeated",
        )
    add(
        "--test-views",
        type=int,
        metavar="N",
        help="random draws of each corruption, in place of the trial's test_views",
    )
    add(
        "--device",
        default="auto",
        help="auto (a GPU if there is one), cpu, cuda or cuda:INDEX (default: %(default)s)",
    )
    add(
        "--reading",
        default="auto",
        choices=("auto", "resident", "streaming"),
        help="keep the shards in memory, read them as needed, or (auto, the default) keep them "
        "where they fit; the result is the same",
    )
    add(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        dest="plugins",
        help="a module on sys.path that registers a probe or an arm named here; may be repeated",
    )
    options = parser.parse_args(argv)
    keep_freed_memory()
    load_plugins(options.plugins)
    fields = ("test_arms", "adapt_arms", "test_views")
    changes = {name: value for name in fields if (value := getattr(options, name)) is not None}
    results = probe_all(
        options.location, options.probes, options.bank, changes, options.device, options.reading
    )
    for file, new in results:
        print(f"{'measured' if new else 'up to date'}  {file}")
    return 0


if __name__ == "__main__":
    main()
