"""What a trial reads: the bank's figures that suffice, and what fits in memory."""

import pytest
import torch

from shards.bank.reader import load_manifest, parse_manifest
from shards.bank.robustness import TeacherRobustness
from shards.building.build import build
from shards.building.request import Request
from trainers.inputs import fits_in_memory, resolve, source_of
from trainers.probe import probe_all
from trainers.results.folder import finished, trial_folder
from trainers.runner import run_trial

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
        robustness = TeacherRobustness(
            draws=stored, clean=(0.9,), teachers=(figures,), order="keyed"
        )
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


def test_figures_measured_in_the_order_of_shards_do_not_suffice(bank):
    figures = {"noise:0.1": {"accuracy": 0.5}}
    old = TeacherRobustness(draws=3, clean=(0.9,), teachers=(figures,))
    manifest = load_manifest(bank).model_copy(update={"robustness": old}).sealed()
    assert manifest.teacher_figures(1) == ({},)
    # Its JSON, and so the checksum of such a bank, is as it was before the order was recorded.
    assert "order" not in old.model_dump_json()
    again = parse_manifest(manifest.to_json().encode(), "manifest.json")
    assert again.robustness == old


def test_per_seed_takes_the_draws_from_the_trials_seed(bank, make):
    manifest = load_manifest(bank)
    assert manifest.plan.seed == 0
    resolved = resolve(make(data_seed="per_seed", seed=0), bank)
    with pytest.raises(ValueError, match=r"^data_seed: the bank .* has 0, the trial needs 3$"):
        resolve(make(data_seed="per_seed", seed=3), bank)
    other = manifest.model_copy(update={"plan": manifest.plan.model_copy(update={"seed": 3})})
    # Seeds of one group have one source; a bank of another seed, or a fixed seed, has another.
    assert source_of(make(data_seed="per_seed", seed=3), other) == resolved.source
    assert source_of(make(data_seed="per_seed", seed=3), manifest) != resolved.source
    assert source_of(make(seed=0), manifest) != resolved.source


def test_a_bank_with_prompts_of_its_own_has_another_source(done, bank, make, tmp_path):
    """The zero-shot values are of its prompts; where nothing reads them, they are no part of it."""
    config, root, _, _ = done
    manifest = load_manifest(bank)
    own = manifest.plan.model_copy(update={"templates": ("the number {}",)})
    other = manifest.model_copy(update={"plan": own})
    sources = {source_of(config, one) for one in (manifest, other)}
    assert len(sources) == 2
    more = manifest.plan.model_copy(update={"templates": ("the number {}", "{}")})
    assert source_of(config, manifest.model_copy(update={"plan": more})) not in sources
    silent = other.model_copy(update={"class_embeddings": (None,)})
    assert source_of(config, silent) == source_of(config, manifest)
    # A bank built so serves neither the stored result nor another probe of that trial.
    request = Request(
        dataset="digits", teachers=("embedded",), arms=("noise:0.1",), views=2, test_views=2,
        test_arms=("noise:0.1",), train_samples=200, test_samples=60, templates=("zzz {}",),
    )  # fmt: skip
    build(request, str(tmp_path))
    with pytest.raises(ValueError, match=r"finished on other images, .* prompts or teacher"):
        run_trial(config, str(tmp_path), root)
    with pytest.raises(ValueError, match=r"holds other images, .* prompts or teacher"):
        probe_all(trial_folder(root, config), ("zero_shot",), str(tmp_path))


def test_a_bank_of_another_precision_is_refused(bank, make):
    assert resolve(make(teacher_precision="fp32"), bank).teacher.precision == "fp32"
    with pytest.raises(ValueError, match=r"^teacher_precision: the bank .* has 'fp32', the trial"):
        resolve(make(teacher_precision="bf16"), bank)
    assert make(teacher_precision="bf16").identity == make().identity


def test_a_finished_trial_of_another_teacher_is_refused(done, make):
    config, root, result, _ = done
    assert result.embeddings
    assert result.embeddings.model_dump() == {
        "precision": "fp32", "device": "cpu", "stored": "float16"
    }  # fmt: skip
    assert finished(root, config.model_copy(update={"teacher_precision": "fp32"})) is not None
    for pin, found in (("teacher_precision", "bf16"), ("teacher_dim", 9)):
        with pytest.raises(ValueError, match=rf"{pin}: this trial was finished with .*, but"):
            finished(root, config.model_copy(update={pin: found}))
