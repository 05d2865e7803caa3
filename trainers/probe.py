"""Probes on what is trained already, without training.

    python -m trainers.probe runs/demo --probe spectrum --probe linear      # all finished trials
    python -m trainers.probe runs/demo/trials/0123456789abcdef --probe robustness \\
        --test-arm noise:0.02 --test-arm noise:0.3 --adapt-arm noise:0.3 --test-views 5
    python -m trainers.probe student --probe linear --bank runs/demo/banks/0123456789abcdef
    python -m trainers.probe runs/demo/trials/0123456789abcdef/checkpoints/step-00000120 \\
        --probe spectrum

PLACE is a run's folder, a trial's, a student's, or one checkpoint of an unfinished trial; a path
or a URL. Results lie beside the trial, in probes/NAME-vVERSION.json (with a mark of its own for
each set of arms and draws); the same command again computes nothing. `python -m sweep.run`, again,
takes them into journal, MLflow and report.

Without --bank the shards are those of the run's own banks folder that the trial was trained on.
Of a student alone nothing says on which arm it was trained: it is measured as if on `clean`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import Any

import torch

from shards.support import storage
from shards.support.command import command, make_parser
from shards.support.progress import Progress
from trainers.config.schema import TrialConfig, make_config
from trainers.engines import choose_device
from trainers.inputs import TrialSplits
from trainers.probes import PROBES
from trainers.probes.features import FeatureBank
from trainers.probes.measure import (
    measure,
    measure_teacher,
    projected_features,
    student_features,
)
from trainers.results.folder import read_json
from trainers.results.record import environment_of
from trainers.results.reprobed import FORMAT, key_of, probed_file, settings_of
from trainers.results.subjects import Subject, places, subject_at


def probe(
    subject: Subject,
    names: tuple[str, ...],
    changes: dict[str, Any] | None = None,
    device: str = "auto",
    reading: str = "auto",
) -> list[tuple[str, bool]]:
    """Measure what is not there yet; [(file, whether it was measured now)], one a probe.

    `changes`: fields of the trial to measure under instead: test_arms, test_views, adapt_arms. A
    file of other weights or images is replaced, which is said on stderr.
    Raises: ValueError for inputs that do not fit; OSError.
    """
    trial = subject.inputs.config
    config = make_config(trial.model_dump() | {"probes": names} | (changes or {}))
    about = {name: _about(subject, config, name) for name in config.probes}
    files = {n: probed_file(subject.folder, n, config, trial) for n in config.probes}
    missing = [name for name in config.probes if not _there(files[name], about[name])]
    if missing:
        chosen = choose_device(device)
        torch.set_num_threads(config.threads)
        splits = replace(subject.inputs, config=config).load(chosen, reading, training=False)
        features = _features(subject, splits, chosen)
        for name in missing:
            alone = config.model_copy(update={"probes": (name,)})
            own = asdict(measure(features, alone, "test"))
            one_probe = replace(splits, inputs=replace(splits.inputs, config=alone))
            reference = measure_teacher(one_probe, subject.root)
            result = about[name] | own | {"teacher": reference.metrics}
            result["arrays"] = own["arrays"] | reference.arrays
            result["undefined"] = own["undefined"] + reference.undefined
            result["environment"] = environment_of(chosen, config)
            storage.write_json(files[name], result)
    return [(files[name], name in missing) for name in config.probes]


def _features(subject: Subject, splits: TrialSplits, device: torch.device) -> FeatureBank:
    if subject.student is None:
        return projected_features(splits)
    channels_last = splits.inputs.config.channels_last
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = subject.student.to(device).to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    return student_features(model, splits, device)


def _about(subject: Subject, config: TrialConfig, name: str) -> dict[str, Any]:
    """What the values hang on; `trainers.results.reprobed.key_of` compares it."""
    return {
        "format": FORMAT,
        "probe": name,
        "version": PROBES[name].version,
        "settings": settings_of(config),
        "trial": subject.trial,
        "student_sha256": subject.sha256,
        "source": subject.inputs.source,
    }


def _there(file: str, about: dict[str, Any]) -> bool:
    """Whether a result is there already; one that is of something else is named."""
    if not storage.exists(file):
        return False
    there, here = key_of(read_json(file)), key_of(about)
    differing = [name for name in here if there[name] != here[name]]
    if differing:
        print(f"{file}: replaced, it has other {', '.join(differing)}", file=sys.stderr)
    return not differing


@command
def main(argv: list[str]) -> int:
    parser = make_parser("trainers.probe", __doc__)
    add = parser.add_argument
    add("place", metavar="PLACE", help="a run, a trial, a student or a checkpoint")
    add(
        "--probe",
        action="append",
        required=True,
        metavar="NAME",
        dest="probes",
        help=", ".join(PROBES),
    )
    add("--bank", metavar="DIR-OR-URL", help="the shards that the trial was trained on")
    for name, what in (("test", "measure under"), ("adapt", "adapt to")):
        add(
            f"--{name}-arm",
            action="append",
            metavar="SPEC",
            dest=f"{name}_arms",
            help=f"{what} these instead of the trial's own",
        )
    add("--test-views", type=int, metavar="N", help="draws of each instead of the trial's own")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--reading", default="auto", choices=("auto", "resident", "streaming"))
    options = parser.parse_args(argv)
    names = tuple(options.probes)
    fields = ("test_arms", "adapt_arms", "test_views")
    changes = {name: value for name in fields if (value := getattr(options, name)) is not None}
    for name in names:
        _ = PROBES[name]
    found = places(options.place)
    lines: list[str] = []
    with Progress("students", len(found)) as bar:
        for done, place in enumerate(found, 1):
            subject = subject_at(place, options.bank)
            results = probe(subject, names, changes, options.device, options.reading)
            lines += [f"{'measured' if new else 'there'}  {file}" for file, new in results]
            bar.update(done)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    main()
