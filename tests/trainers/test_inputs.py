"""What a trial reads: the bank's figures that suffice, and what fits in memory."""

import pytest
import torch

from shards.bank.reader import load_manifest
from shards.bank.robustness import TeacherRobustness
from trainers.inputs import fits_in_memory, resolve

CPU = torch.device("cpu")


def test_what_fits_is_a_quarter_of_what_is_free(monkeypatch):
    monkeypatch.setattr("trainers.inputs.free_memory", lambda: 1_000_000)
    assert fits_in_memory(250_000, CPU)
    assert not fits_in_memory(250_001, CPU)


@pytest.mark.parametrize(
    ("stored", "needed", "exactly", "suffices"),
    [(3, 3, False, True), (3, 2, False, True), (3, 4, False, False), (3, 3, True, True),
     (3, 2, True, False), (3, 4, True, False), (None, 1, False, False)],
)  # fmt: skip
def test_stored_figures_suffice_with_as_many_draws_or_more(bank, stored, needed, exactly, suffices):
    manifest, figures = load_manifest(bank), {"noise:0.1": {"accuracy": 0.5}}
    if stored is not None:
        robustness = TeacherRobustness(draws=stored, clean=(0.9,), teachers=(figures,))
        manifest = manifest.model_copy(update={"robustness": robustness})
    assert manifest.teacher_figures(needed, exactly) == ((figures,) if suffices else ({},))


def test_a_trial_resolves_to_its_column_preprocessing_and_classes(bank, make):
    manifest = load_manifest(bank)
    inputs = resolve(make(classes=4), bank)
    assert inputs.teacher == manifest.plan.teachers[0]
    assert inputs.preprocess.size == manifest.plan.dataset.image_size
    assert resolve(make(input="teacher"), bank).preprocess == inputs.teacher.preprocess
    assert inputs.classes == manifest.plan.dataset.classes[:4]
    assert inputs.teacher_figures == {}
    with pytest.raises(ValueError, match=r"^classes: 11"):
        resolve(make(classes=11), bank)
