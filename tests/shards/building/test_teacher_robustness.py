"""Teachers' figures in a manifest: measured once, resumed, shards and identity as without them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from shards.arms import make_arm
from shards.arms.groups import expand_arms
from shards.bank.manifest import Manifest
from shards.bank.reader import load_manifest, load_shard, parse_manifest
from shards.bank.robustness import TeacherRobustness
from shards.build import main
from shards.building import build as build_module
from shards.building.build import build
from shards.building.embed import Embedder
from shards.building.estimate import bank_passes
from shards.building.teacher_robustness import PARTIAL, DrawLog, RobustnessProbe
from shards.measures.corruption import figures_of
from shards.verify import check_robustness, describe, verify

ARMS = ("noise:0.1", "contrast:5", "band_noise:2:0.5")


def files(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.glob("*.tar")}


@pytest.fixture(scope="module")
def request_3(request_60):
    return request_60.model_copy(update={"teacher_robustness": ARMS, "test_views": 2})


@pytest.fixture(scope="module")
def measured(request_3, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("measured") / "digits"
    build(request_3, str(folder))
    return folder


def test_the_bank_is_the_same_but_for_the_figures(measured, request_3, tmp_path) -> None:
    plain = tmp_path / "plain"
    build(request_3.model_copy(update={"teacher_robustness": ()}), str(plain))
    assert files(plain) == files(measured)
    without, having = load_manifest(str(plain)), load_manifest(str(measured))
    assert without.robustness is None
    assert b'"robustness"' not in (plain / "manifest.json").read_bytes()
    assert without.identity == having.identity
    assert without.checksum != having.checksum
    assert (having.shards, having.class_embeddings) == (without.shards, without.class_embeddings)
    assert not (measured / PARTIAL).exists()


def test_figures_are_those_of_the_embeddings_the_bank_stores(measured) -> None:
    """noise:0.1 is stored in this bank too: the same draws, the same embeddings."""
    manifest = load_manifest(str(measured))
    assert manifest.robustness
    (teacher,) = manifest.robustness.teachers
    assert tuple(teacher) == ARMS
    (record,) = [r for r in manifest.shards if r.split == "test"]
    stored = load_shard(str(measured), manifest, record).arrays["embedding.0"]
    place = next(a for a in manifest.plan.arms["test"] if a.arm == "noise:0.1")
    probe = RobustnessProbe(str(measured), manifest)
    draws = [probe.measure(0, stored[:, view]) for view in range(place.start, place.stop)]
    assert len(draws) == 2
    assert teacher["noise:0.1"] == pytest.approx(figures_of(draws))
    assert manifest.robustness.clean == (probe.measure(0, stored[:, 0]).accuracy,)
    assert probe.measure(0, stored[:, 0]).cosine == pytest.approx(1, abs=1e-6)


def test_one_draw_of_what_does_not_vary(measured) -> None:
    found = load_manifest(str(measured)).robustness
    assert found
    assert set(found.teachers[0]["contrast:5"]) == {"accuracy", "cosine", "rank"}
    assert set(found.teachers[0]["noise:0.1"]) == {"accuracy", "accuracy_sd", "cosine", "rank"}
    assert 0 < found.teachers[0]["contrast:5"]["cosine"] < 1


def test_the_same_again_measures_nothing_and_more_arms_only_those(
    measured, request_3, monkeypatch
) -> None:
    seen = []
    corrupted = Embedder.corrupted

    def watched(self, todo, tick):
        seen.extend(item.arm for item in todo)
        return corrupted(self, todo, tick)

    monkeypatch.setattr(Embedder, "corrupted", watched)
    before = load_manifest(str(measured))
    assert build(request_3, str(measured)) == before
    assert seen == []
    more = request_3.model_copy(update={"teacher_robustness": (*ARMS, "fog:2")})
    after = build(more, str(measured))
    assert seen == ["fog:2", "fog:2"]
    assert after.robustness
    assert before.robustness
    assert after.robustness.arms == (*ARMS, "fog:2")
    kept = {spec: after.robustness.teachers[0][spec] for spec in ARMS}
    assert kept == before.robustness.teachers[0]
    assert files(measured) == files(measured)
    assert verify(str(measured)).good


@pytest.mark.faults
def test_a_killed_build_goes_on_with_the_draw_it_was_at(
    request_3, measured, tmp_path, monkeypatch
) -> None:
    folder, corrupted, count = tmp_path / "killed", Embedder.corrupted, 0

    def dies(self, todo, tick):
        for item in corrupted(self, todo, tick):
            nonlocal count
            if count == 3:
                raise KeyboardInterrupt
            count += 1
            yield item

    monkeypatch.setattr(Embedder, "corrupted", dies)
    with pytest.raises(KeyboardInterrupt):
        build(request_3, str(folder))
    assert load_manifest(str(folder)).robustness is None  # whole, and can be read
    assert len(json.loads((folder / PARTIAL).read_text())["draws"]) == 3
    count = -100
    manifest = build(request_3, str(folder))
    assert count == -98  # two draws were left of five
    assert not (folder / PARTIAL).exists()
    whole = load_manifest(str(measured)).robustness
    assert manifest.robustness
    assert whole
    assert manifest.robustness.teachers[0] == {s: whole.teachers[0][s] for s in ARMS}


def test_verify_prints_and_checks_them(measured) -> None:
    verdict = verify(str(measured))
    assert verdict.good
    assert "2 draws" in verdict.notes["robustness"]
    assert "robustness" in [str(cell) for cell in describe(verdict).columns[0].cells]
    found = verdict.manifest.robustness
    assert found
    assert found.teachers[0]["noise:0.1"]["accuracy"] > 0.3


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"teachers": ()}, "figures of 0 teachers for 1"),
        ({"teachers": ({"noise": {"accuracy": 1.0, "cosine": 1.0, "rank": 2.0}},)}, "noise:0.1"),
        ({"teachers": ({"nois:1": {"accuracy": 1.0}},)}, "unknown arm `nois`"),
        ({"teachers": ({"noise:0.1": {"accuracy": 1.0}},)}, "figures are missing"),
        ({"clean": ()}, "teachers for 1"),
    ],
)
def test_figures_that_do_not_fit_are_found(change, part, measured, refused) -> None:
    manifest = load_manifest(str(measured))
    assert manifest.robustness
    found = TeacherRobustness.model_validate(manifest.robustness.model_dump() | change)
    refused(lambda: check_robustness(manifest.model_copy(update={"robustness": found})), part)


@pytest.mark.parametrize(
    "figures", [{"accuracy": 1.2}, {"speed": 1.0}, {"rank": float("nan")}, {"cosine": -1.5}]
)
def test_figures_out_of_range_are_no_manifest(figures, measured, refused) -> None:
    value = json.loads((measured / "manifest.json").read_text())
    value["robustness"]["teachers"][0]["noise:0.1"].update(figures)
    refused(lambda: parse_manifest(json.dumps(value).encode(), "m.json"), "m.json", "robustness")


def test_edited_figures_are_refused(measured, refused) -> None:
    value = json.loads((measured / "manifest.json").read_text())
    value["robustness"]["teachers"][0]["noise:0.1"]["accuracy"] = 0.5
    refused(lambda: parse_manifest(json.dumps(value).encode(), "m.json"), "checksum", "edited")
    del value["robustness"]
    refused(lambda: parse_manifest(json.dumps(value).encode(), "m.json"), "checksum", "edited")


def test_a_bank_of_other_teachers_or_images_is_refused(measured, request_3, refused) -> None:
    manifest = load_manifest(str(measured))
    teacher = manifest.plan.teachers[0].model_copy(update={"weights_sha256": "0" * 64})
    other = manifest.plan.model_copy(update={"teachers": (teacher,)})
    text = Manifest.model_copy(manifest, update={"plan": other})
    place = Embedder(request_3, "cpu", {})
    more = request_3.model_copy(update={"teacher_robustness": ("fog:1",)})
    refused(
        lambda: build_module.add_robustness(str(measured), text, more, place),
        "another bank",
        "weights_sha256",
    )


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"draws": {"x": [{"y": 1}]}}'])
def test_a_damaged_half_is_named_with_a_remedy(text: str, bank, tmp_path, refused) -> None:
    manifest = load_manifest(str(bank))
    text = text.replace(
        '{"draws"', f'{{"identity": "{manifest.identity}", "order": "keyed", "draws"'
    )
    (tmp_path / PARTIAL).write_text(text)
    refused(lambda: DrawLog(str(tmp_path), manifest), str(tmp_path / PARTIAL), "delete it")


@pytest.mark.thorough
def test_the_build_command_measures_robustness(tmp_path, capsys) -> None:
    out = str(tmp_path / "bank")
    line = ["--dataset", "digits", "--teacher", "embedded", "--train-samples", "70"]
    line += ["--test-samples", "10", "--out", out, "--teacher-robustness"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "noise_pixel", "low_pass:0.5"])
    assert ended.value.code == 0
    assert "10 arms, 1 draw" in capsys.readouterr().out
    found = load_manifest(out).robustness
    assert found
    assert found.arms == (*expand_arms(["noise_pixel"]), "low_pass:0.5")
    assert found.teachers[0]["noise:0"]["accuracy"] == found.clean[0]
    assert found.teachers[0]["noise:0"]["cosine"] == pytest.approx(1, abs=1e-6)
    with pytest.raises(SystemExit):
        main([*line, "--dry-run"])
    assert "measured under 97 arms" in capsys.readouterr().out


def test_passes_count_the_test_images_of_every_draw(request_3) -> None:
    plain = request_3.model_copy(update={"teacher_robustness": ()})
    views = sum(make_arm(spec).views(2) for spec in ARMS)
    assert views == 5
    assert bank_passes(request_3) - bank_passes(plain) == 5 * 20
