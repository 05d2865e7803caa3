"""Make the FeatureBank of a trained student, of its teacher, or of the projected teacher."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # pyright: ignore[reportMissingTypeStubs]
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from shards.arms import make_arm
from shards.bank.manifest import arm_record
from shards.bank.order import keyed_order
from shards.bank.splits import Split
from shards.measures.corruption import Figures
from trainers.inputs import TrialSplits
from trainers.probes.features import FeatureBank, Floats, SplitName, Stored, Subject, unit
from trainers.probes.projection import principal_projection
from trainers.probes.teacher_space import learns_teacher_space
from trainers.students.base import Student
from trainers.training.data import Data
from trainers.training.divergence import NotFiniteError

BATCH = 100  # images embedded at once
StoredKey = tuple[SplitName, str, int]  # split, arm, view


# ---- a student ----


@torch.inference_mode()
def encode_view(encode: Callable[[torch.Tensor], torch.Tensor], data: Data, view: int) -> Floats:
    """One view of every sample through `encode`: float32 (N, F), in keyed order.

    Raises: NotFiniteError, naming the first sample with an output that is not finite.
    """
    parts = [encode(images_BCHW).float().cpu() for images_BCHW in data.view(view, BATCH)]
    encoded_NF = torch.cat(parts).numpy()
    finite_N = np.isfinite(encoded_NF).all(axis=1)
    if not finite_N.all():
        row = int(keyed_order(data.keys)[int(finite_N.argmin())])
        raise NotFiniteError(f"an output of the student is not finite (`{data.keys[row]}`)")
    return encoded_NF


@dataclass(frozen=True)
class StudentSubject:
    """A trained student and the images it is measured on: a `trainers.probes.features.Subject`.

    Embeddings are computed when a probe requests them.
    """

    model: Student
    splits: TrialSplits
    device: torch.device

    def data(self, split: SplitName, arm: str = "clean", views: int = 1) -> Data:
        """`views` views of a split's images under an arm.

        Augmentation parameters are drawn with the bank's seed and are those that the bank would
        have stored. So students can be measured under arms that the bank does not have.
        """
        inputs = self.splits.inputs
        clean = self.splits.clean_train if split == "train" else self.splits.test["clean"]
        made = make_arm(arm)
        params_NVP = made.draw(inputs.manifest.plan.seed, clean.keys, views)
        drawn = replace(clean, params_NVP=params_NVP)
        return Data(drawn, made, inputs.preprocess, self.device)

    def embed(self, split: SplitName, arm: str = "clean", view: int = 0) -> Floats:
        """Unit embeddings (N, D) of one view of a split."""
        self.model.eval()
        return unit(encode_view(self.model, self.data(split, arm, view + 1), view))

    def penultimate(self, split: SplitName) -> Floats:
        """Raw features (N, F) of the clean images."""
        self.model.eval()
        return encode_view(self.model.features, self.data(split), 0)

    def recalibrated(self, arm: str) -> StudentSubject | None:
        """A copy whose BatchNorm statistics are those of the train images under `arm`.

        Running statistics are replaced by their mean over one pass, batch by batch, in keyed order.
        A last batch of one image counts except where it is one value per channel, which has no
        variance. None where the student has no BatchNorm.
        """
        model = copy.deepcopy(self.model).eval()
        norms = [
            m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None
        ]
        if not norms:
            return None
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch then takes a plain mean over batches
            norm.train()
            norm.register_forward_pre_hook(_leave_out_one_value)
        with torch.inference_mode():
            for images_BCHW in self.data("train", arm).view(0, BATCH):
                model(images_BCHW)
        return replace(self, model=model.eval())


def _leave_out_one_value(norm: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Take no statistics of inputs (B, C, ...) with one value per channel: PyTorch refuses them."""
    if inputs[0].numel() == inputs[0].shape[1]:
        norm.eval()


def student_features(model: Student, splits: TrialSplits, device: torch.device) -> FeatureBank:
    """The student's FeatureBank.

    Clean images are embedded at once, others when a probe requests them.
    """
    config = splits.inputs.config
    bank = _feature_bank(splits, StudentSubject(model, splits, device), config.arm)
    return replace(bank, aligned=learns_teacher_space(config))


# ---- the teacher, from the embeddings that the bank stores ----


def teacher_features(splits: TrialSplits) -> FeatureBank:
    """The teacher's FeatureBank, for the same probes as a student's.

    It has embeddings under those corruptions that the bank stores, and no model to embed others.
    """
    embeddings = {key: _stored_embeddings(split, view) for key, split, view in _stored(splits)}
    return _feature_bank(splits, Stored(embeddings), "", splits.inputs.teacher_figures)


def projected_features(splits: TrialSplits) -> FeatureBank:
    """The FeatureBank of `student: teacher_pca:K`: stored embeddings after the projection.

    See trainers.students.teacher_pca. Raises: ValueError where K is too large.
    """
    config = splits.inputs.config
    with threadpool_limits(config.threads):
        project = principal_projection(config.student, splits.clean_train)
    embeddings = {key: unit(project(split, view)) for key, split, view in _stored(splits)}
    return _feature_bank(splits, Stored(embeddings), "")


def _stored(splits: TrialSplits) -> Iterator[tuple[StoredKey, Split, int]]:
    """(key, split, view) of every view whose teacher embeddings the bank stores."""
    config = splits.inputs.config
    yield ("train", "clean", 0), splits.clean_train, 0
    yield ("test", "clean", 0), splits.test["clean"], 0
    for spec in config.test_arms:
        if spec in splits.test:
            record = arm_record(splits.inputs.manifest, "test", spec)
            for view in range(min(config.test_views, record.stop - record.start)):
                yield ("test", spec, view), splits.test[spec], view


def _stored_embeddings(split: Split, view: int) -> Floats:
    return unit(split.embedding_NVD[keyed_order(split.keys), view])


def _feature_bank(
    splits: TrialSplits,
    subject: Subject,
    trained_on: str,
    figures: Mapping[str, Figures] | None = None,
) -> FeatureBank:
    """The embeddings of `subject` beside the teacher's; see FeatureBank for its fields."""
    inputs, config = splits.inputs, splits.inputs.config
    train_ND, test_ND = subject.embed("train"), subject.embed("test")
    train, test = splits.clean_train, splits.test["clean"]
    train_order_N, test_order_N = keyed_order(train.keys), keyed_order(test.keys)
    assert train_ND is not None
    assert test_ND is not None
    return FeatureBank(
        train_ND=train_ND,
        train_labels_N=train.labels_N[train_order_N],
        test_ND=test_ND,
        test_labels_N=test.labels_N[test_order_N],
        teacher_ND=_stored_embeddings(test, 0),
        teacher_train_ND=_stored_embeddings(train, 0),
        subject=subject,
        text_CD=inputs.class_embeddings_CD,
        classes=inputs.classes,
        test_arms=config.test_arms,
        draws=config.test_views,
        trained_on=trained_on,
        adapt_arms=config.adapt_arms,
        figures=figures or {},
        seed=inputs.manifest.plan.seed,
        test_file_order_N=np.argsort(test_order_N),
    )
