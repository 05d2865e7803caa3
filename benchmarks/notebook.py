"""The way of the paper's notebook (arXiv 2603.06698 v1), written down in a straight line.

Each step resizes and normalises its batch with PIL in the main process, runs the frozen ViT-B/32 on
it, and trains the student on its output. Memory layout, precision, threads and allocator are
PyTorch's defaults. At the end both networks run over all images again: scikit-learn's logistic
regression on the student's train embeddings, accuracy under three noises, singular values, InfoNCE.
The teacher's weights are random, which take as long as trained ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

DIM, BATCH = 512, 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
NOISES = (0.05, 0.1, 0.2)


def paper_student(width: int) -> torch.nn.Module:
    """The notebook's network, written as it is there."""
    nn = torch.nn
    a, b, c = 16 * width, 32 * width, 64 * width
    return nn.Sequential(
        nn.Conv2d(3, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(b, c, 3, padding=1), nn.BatchNorm2d(c), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 4)),
        nn.Flatten(), nn.Linear(c * 16, 512), nn.ReLU(), nn.Linear(512, DIM),
    )  # fmt: skip


class Notebook:
    """One student, its teacher and its optimiser. native: the student sees unresized images."""

    def __init__(self, width: int, native: bool = False) -> None:
        made: Any = open_clip.create_model_and_transforms("ViT-B-32")
        self.teacher, _, self.preprocess = made
        self.teacher.eval()
        self.student = paper_student(width)
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=1e-3)
        self.native = native

    def resized(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        return torch.stack([self.preprocess(picture) for picture in pictures])

    def unresized(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        arrays = [torch.from_numpy(np.asarray(picture)).permute(2, 0, 1) for picture in pictures]
        return torch.stack([(array / 255 - mean) / std for array in arrays])

    @torch.no_grad()
    def targets(self, resized_BCHW: torch.Tensor) -> torch.Tensor:
        return normalize(self.teacher.encode_image(resized_BCHW), dim=-1)

    def step(self, pictures: Sequence[Image.Image]) -> None:
        resized = self.resized(pictures)
        target = self.targets(resized)
        inputs = self.unresized(pictures) if self.native else resized
        loss = (1 - cosine_similarity(self.student(inputs), target, dim=-1)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        loss.item()

    @torch.no_grad()
    def embeddings(
        self, pictures: Sequence[Image.Image], noise: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors (student's, teacher's) of all pictures, in batches as in training."""
        self.student.eval()
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, len(pictures), BATCH):
            images = self.resized(pictures[start : start + BATCH])
            images += noise * torch.randn_like(images)
            pairs.append((normalize(self.student(images), dim=-1), self.targets(images)))
        student, teacher = (torch.cat(side).numpy() for side in zip(*pairs, strict=True))
        return student, teacher

    def evaluate(
        self,
        train: Sequence[Image.Image],
        train_labels_N: np.ndarray,
        test: Sequence[Image.Image],
        test_labels_N: np.ndarray,
    ) -> dict[str, float]:
        """What the notebook measures of a student at the end."""
        from sklearn.linear_model import LogisticRegression

        train_ND, _ = self.embeddings(train, 0.0)
        probe = LogisticRegression(C=1.0, max_iter=2000).fit(train_ND, train_labels_N)
        student_ND, teacher_ND = self.embeddings(test, 0.0)
        singular_D = np.linalg.svd(student_ND - student_ND.mean(axis=0), compute_uv=False)
        p_D = singular_D**2 / np.sum(singular_D**2)
        found = {
            "rank": float(np.exp(-np.sum(p_D * np.log(p_D + 1e-10)))),
            "clean": float(probe.score(student_ND, test_labels_N)),
        }
        for noise in NOISES:
            noisy_ND, _ = self.embeddings(test, noise)
            found[f"noise {noise}"] = float(probe.score(noisy_ND, test_labels_N))
        losses = [
            cross_entropy(
                torch.from_numpy(student_ND[at : at + BATCH] @ teacher_ND[at : at + BATCH].T) / 0.1,
                torch.arange(len(student_ND[at : at + BATCH])),
            )
            for at in range(0, len(student_ND), BATCH)
        ]
        return found | {"infonce": float(torch.stack(losses).mean())}
