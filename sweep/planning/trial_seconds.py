"""What a trial takes: one model for the time left, the dry run, the budget and the report.

On its device, a GPU or CPU cores, a trial takes

    fixed + samples seen x (augment + train) + observations + embedding for the probes + probes

seconds. The ranks of a gang share the samples, and wait for each other in every step. How fast each
part is comes from a `Calibration`, which was measured on a machine or is `nominal`. The probes run
on CPU cores while the trial holds its GPU, so they count as GPU time there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shards.arms import make_arm
from shards.teachers import embedding_dim
from sweep.planning.calibration import Calibration, Measuring, Overhead, StudentSpeed
from sweep.planning.kinds import Kind, macs_of
from sweep.planning.remaining import REUSED
from sweep.planning.sizes import BACKWARD, planned_steps, student_of
from trainers.students.teacher_pca import has_no_network

# Of one CPU core, about: multiply-accumulates a second; seconds of an observation during training
# besides its passes; of the arithmetic of all probes; and of each that fits classifiers, with 512
# dimensions, at any number of train images and for each image.
NOMINAL_RATE = 5e9
OBSERVING = 0.05
PROBING = 2.0
FITTING, FITTING_EACH = 2.0, 7.5e-4
FITTED = ("linear", "retained", "truncated")
# Seconds that the ranks of a gang wait for each other, about: in each step, and for each byte of
# gradients. On CPUs as two ranks on two cores of one machine do.
WAITING_ON_CPU, WAITING_ON_GPU = (0.02, 2e-9), (0.001, 1e-10)


@dataclass(frozen=True)
class Seconds:
    """Of one trial on one device.

    Attributes:
        fixed: of what comes before its training and after its measurements.
        training: augmenting and training, and the observations meanwhile.
        embedding: the student's passes over images for the probes.
        probing: the arithmetic of the probes.
    """

    fixed: float
    training: float
    embedding: float
    probing: float

    @property
    def measuring(self) -> float:
        return self.embedding + self.probing

    @property
    def whole(self) -> float:
        return self.fixed + self.training + self.measuring


def seconds_of(kind: Kind, known: Calibration) -> Seconds:
    """Of a trial. Raises: ValueError for what `known` lacks."""
    config, measuring = kind.config, known.entry("measuring", kind.measuring)
    training = embedding = 0.0
    if not has_no_network(config.student):
        speed = student_speed(kind, known)
        arm = known.entry("arms", kind.arm)
        training = kind.seen * (arm + speed.train) / config.ranks + _waiting(kind, known.device)
        if kind.observations:
            each = known.entry("curves", kind.curve)
            training += kind.observations * (each + kind.curve_images * speed.embed)
        tests = [known.entry("arms", key) for key in kind.test_arms]
        augmenting = sum(tests) / max(1, len(tests))
        images = measuring.train_views * kind.train + measuring.test_views * kind.test
        embedding = kind.measured * images * (speed.embed + augmenting)
    return Seconds(
        fixed=known.overhead.trial,
        training=training,
        embedding=embedding,
        probing=kind.measured * measuring.seconds * kind.train / measuring.train,
    )


def _waiting(kind: Kind, device: str) -> float:
    """Seconds that the ranks of a gang wait for each other in all steps."""
    config = kind.config
    if config.ranks == 1:
        return 0.0
    step, byte = WAITING_ON_CPU if device == "cpu" else WAITING_ON_GPU
    gradients = 4 * student_of(config).parameters.total
    return planned_steps(config) * (step + byte * gradients)


def student_speed(kind: Kind, known: Calibration) -> StudentSpeed:
    """Of the student; in proportion to its work from the one nearest in it, where it is unknown.

    Raises: ValueError where no student is known.
    """
    if kind.student in known.students:
        return known.students[kind.student]
    if not known.students:
        return known.entry("students", kind.student)
    macs = macs_of(kind)
    near = min(known.students.values(), key=lambda s: abs(math.log((s.macs + 1) / (macs + 1))))
    factor = macs / max(1, near.macs)
    return StudentSpeed(macs=macs, train=near.train * factor, embed=near.embed * factor)


def nominal(kind: Kind, a_sample: float | None = None) -> Calibration:
    """A calibration for this kind alone of a CPU core on which nothing but `a_sample` was measured.

    a_sample: seconds that one training sample takes the student: forward, backward and optimiser.
    None: those of a nominal core, so that only ratios mean something.
    """
    config, macs = kind.config, macs_of(kind)
    train = BACKWARD * macs / NOMINAL_RATE if a_sample is None else a_sample
    fitted = FITTING + FITTING_EACH * kind.train
    fitted *= len(set(FITTED) & set(config.probes)) * embedding_dim(config.teacher) / 512
    train_views, test_views = _views(kind)
    return Calibration(
        device="cpu",
        overhead=Overhead(trial=REUSED),
        students={kind.student: StudentSpeed(macs=macs, train=train, embed=train / BACKWARD)},
        arms=dict.fromkeys((kind.arm, *kind.test_arms), 0.0),
        measuring={
            kind.measuring: Measuring(
                train=kind.train,
                test=kind.test,
                seconds=PROBING + fitted,
                train_views=train_views,
                test_views=test_views,
            )
        },
        curves={kind.curve: OBSERVING},
    )


def _views(kind: Kind) -> tuple[int, int]:
    """How often the probes make a student embed every train and every test image, about."""
    config, probes = kind.config, set(kind.config.probes)
    train = test = 1 + ("retained" in probes)
    test += "spectrum" in probes  # raw features
    if {"robustness", "frequency"} & probes:
        test += sum(make_arm(arm).views(config.test_views) for arm in config.test_arms)
    if "robustness" in probes:
        # Twice refitted, once recalibrated; three ways to adapt are tried on the test images.
        train += 3 * len(config.adapt_arms)
        test += sum(3 * make_arm(arm).views(config.test_views) for arm in config.adapt_arms)
    return train, test
