"""The embedded teacher: what its card says is what its files hold."""

from __future__ import annotations

import json
import re

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from shards.teachers.embedded import train
from shards.teachers.embedded.measure import FOLDER, build, card, measure


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads((FOLDER / "config.json").read_text())


@pytest.fixture(scope="module")
def figures() -> dict:
    return measure(FOLDER)


def test_card_states_the_sha256_of_the_weights(figures: dict) -> None:
    stated = re.findall(r"`([0-9a-f]{64})`", (FOLDER / "CARD.md").read_text())
    assert stated == [figures["sha256"]]


def test_card_states_what_is_measured(figures: dict, config: dict) -> None:
    """Word for word, but for decimals: another CPU may round a float differently."""

    def split(text: str) -> tuple[str, list[float]]:
        number = r"\d+\.\d+"
        blank = re.sub(rf" *{number}", " #", text)
        return blank, [float(found) for found in re.findall(number, text)]

    stated, stated_numbers = split((FOLDER / "CARD.md").read_text())
    now, now_numbers = split(card(figures, config))
    assert stated == now
    assert stated_numbers == pytest.approx(now_numbers, abs=0.6)


def test_folder_is_at_most_8_megabytes() -> None:
    files = [f for f in FOLDER.iterdir() if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 8_000_000


def test_weights_load_strictly_and_are_all_fp16(config: dict) -> None:
    weights = load_file(FOLDER / "weights.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    model = build(config)
    assert isinstance(model, open_clip.CLIP)
    assert set(weights) == set(model.state_dict())
    model.load_state_dict({name: w.float() for name, w in weights.items()}, strict=True)
    image_D = model.encode_image(torch.zeros(1, 3, 32, 32))[0]
    text_D = model.encode_text(torch.zeros(1, 20, dtype=torch.long))[0]
    assert image_D.shape == text_D.shape == (512,)


def test_zero_shot_accuracy_on_held_out_digits(figures: dict) -> None:
    clean, noisy, noisier = figures["zero_shot"]
    assert clean >= 0.95
    assert noisy >= 0.90
    assert noisier >= 0.85


def test_effective_rank_of_held_out_embeddings(figures: dict) -> None:
    assert min(figures["rank"]) >= 20


def test_every_prompt_word_was_trained(config: dict) -> None:
    """Rows of the token table are zero for words no caption holds; no prompt may use one."""
    table = load_file(FOLDER / "weights.safetensors")["token_embedding.weight"]
    tokens = train.SimpleTokenizer(context_length=20)([p.format("3") for p in config["prompts"]])
    used = tokens.unique()
    assert (table[used[used > 0]].abs().sum(dim=1) > 0).all()


def test_lean_and_position_are_read_from_the_ink() -> None:
    grey_B1HW = torch.zeros(2, 1, 32, 32)
    for step in range(10):
        grey_B1HW[0, 0, 4 + step, 14 - step] = 1  # a stroke whose top is to the right
        grey_B1HW[1, 0, 18 + step, 18 + step] = 1
    ink_BA = train.measure_ink(grey_B1HW)
    lean_B, x_B, y_B = ink_BA[:, 3], ink_BA[:, 4], ink_BA[:, 5]
    assert lean_B[0] > 0 > lean_B[1]
    assert x_B[0] < 0 < x_B[1]
    assert y_B[0] < 0 < y_B[1]


def test_two_steps_twice_give_the_same_bits(config: dict) -> None:
    recipe = train.Recipe(steps=4, warmup=2, batch=16)
    weights = []
    for _ in range(2):
        trainer = train.Trainer(recipe, config)
        for number in range(2):
            trainer.step(number, np.arange(16))
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
