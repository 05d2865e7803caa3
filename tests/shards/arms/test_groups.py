"""Groups of arms: what each stands for, and that any list of arms and groups is canonical."""

from __future__ import annotations

import pytest

from shards.arms import ARMS, make_arm
from shards.arms.corruption_arms import corruptions_in
from shards.arms.groups import GROUPS, describe_groups, expand_arms
from shards.building.request import Request

SIZES = {
    "noise_pixel": 9,
    "noise_paper": 5,
    "cifar10c": 75,
    "cifar10c_stored": 75,
    "bands": 8,
    "low_passes": 6,
    "high_passes": 4,
    "fourier_map": 37,
}


def test_no_group_has_the_name_of_an_arm() -> None:
    assert not set(GROUPS) & set(ARMS)
    assert set(SIZES) == set(GROUPS)


@pytest.mark.parametrize("name", GROUPS)
def test_groups_expand_to_canonical_arms(name: str) -> None:
    found = expand_arms([name])
    assert len(found) == SIZES[name]
    assert [make_arm(spec).spec for spec in found] == list(found)
    assert len({make_arm(spec).metric for spec in found}) == len(found)
    assert expand_arms([name, name, *found]) == found
    assert dict(describe_groups())[next(f for f, _ in describe_groups() if f.startswith(name))]


def test_groups_expand_to_their_arms() -> None:
    sigmas = ("0", "0.02", "0.05", "0.1", "0.2")
    theirs = ("0.04", "0.06", "0.08", "0.09")  # CIFAR-10-C's, beside 0.1
    assert expand_arms(["noise_pixel"]) == tuple(f"noise:{s}" for s in sorted({*sigmas, *theirs}))
    assert expand_arms(["noise_paper"]) == tuple(f"noise_normalised:{s}" for s in sigmas)
    assert expand_arms(["bands:0.2"])[7] == "band_noise:8:0.2"
    waves = expand_arms(["fourier_map:2"])
    assert waves[0] == "fourier:0:0:0.5"
    assert "fourier:0.5:-0.5:0.5" in waves
    assert len(waves) == 11
    assert expand_arms(["noise", "bands", "clean"])[:2] == ("noise:0.1", "band_noise:1:0.1")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("cifar10", ("unknown arm `cifar10`", "did you mean `cifar10c`")),
        ("cifar10c:3", ("cifar10c:3", "takes no option")),
        ("fourier_map:0", ("from 1 to 32",)),
        ("fourier_map:x", ("from 1 to 32",)),
        ("bands:red", ("[0, 10]",)),
        ("nois:0.1", ("did you mean `noise`",)),
    ],
)
def test_bad_groups_are_refused(spec: str, parts: tuple[str, ...], refused) -> None:
    refused(lambda: expand_arms([spec]), *parts)


def test_a_bank_may_be_asked_for_groups_and_keeps_one_view_of_what_does_not_vary() -> None:
    request = Request(
        dataset="digits",
        teachers=("embedded",),
        arms=("contrast:2", "fog:1"),
        views=4,
        test_arms=("low_passes", "noise"),
        test_views=3,
    )
    train = {r.arm: (r.start, r.stop) for r in request.arm_records("train")}
    assert train == {"clean": (0, 1), "contrast:2": (1, 2), "fog:1": (2, 6)}
    test = {r.arm: r.stop - r.start for r in request.arm_records("test")}
    assert (test["low_pass:0.5"], test["noise:0.1"]) == (1, 3)
    assert request.teacher_views("test") == 1 + 6 + 3


@pytest.mark.parametrize(
    ("arm", "seen"),
    [
        ("clean", set()),
        ("crop_flip", set()),
        ("noise:0.2", {"gaussian_noise"}),
        ("noise_normalised", {"gaussian_noise"}),
        ("noise_denoise", {"gaussian_noise"}),
        ("crop_flip_noise", {"gaussian_noise"}),
        ("gaussian_noise:5", {"gaussian_noise"}),
        ("fog:2", {"fog"}),
        ("color_jitter", {"brightness", "contrast"}),
        ("stored:frost:1", {"frost"}),
        ("band_noise", set()),
    ],
)
def test_what_a_trial_on_an_arm_has_seen(arm: str, seen: set[str]) -> None:
    assert corruptions_in(make_arm(arm)) == seen
