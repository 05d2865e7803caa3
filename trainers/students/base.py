"""Student: a feature extractor, and linear layers from its features to the embedding."""

from __future__ import annotations

import torch
from torch import nn


class Student(nn.Module):
    """float32 images (B, 3, H, W) -> raw embeddings (B, D), as `head(trunk(images))`.

    trunk: maps images to feature vectors.
    head: maps those to the embedding; its last module is the linear layer with D outputs.
    channels: of the convolutions of the paper's CNN; () for other students.
    """

    def __init__(
        self, trunk: nn.Module, head: nn.Sequential, channels: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.trunk, self.head, self.channels = trunk, head, channels

    def features(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """The penultimate representation (B, F): the input of `head[-1]`."""
        x_BF = self.trunk(images_BCHW)
        for layer in list(self.head)[:-1]:
            x_BF = layer(x_BF)
        return x_BF

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        return self.head[-1](self.features(images_BCHW))
