"""Ego-motion between two images (Monodepth2, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.geometry import pose_matrix
from training.networks.batchnorm import freeze_statistics

ROTATION_SCALE = 0.05  # a KITTI camera turns by less than 0.05 rad between two frames at 10 Hz
TRANSLATION_SCALE = 0.1  # .01 lets the depth collapse before the translation has grown


class PoseNet(nn.Module):
    """Encoder of two stacked images, 1x1 squeeze, two 3x3 convolutions, spatial mean of six numbers."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.channels[-1], 256, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 6, 1),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """second_T_first (B, 4, 4) of two images (B, 3, H, W) in temporal order; translation in the depth's unit."""
        vector = self.decoder(self.encoder(torch.cat([first, second], dim=1))[-1]).mean(dim=(2, 3))
        return pose_matrix(ROTATION_SCALE * vector[:, :3], TRANSLATION_SCALE * vector[:, 3:])

    def train(self, mode: bool = True) -> PoseNet:
        """Keep BatchNorm frozen: with small batches its statistics hold learned poses near a constant."""
        super().train(mode)
        freeze_statistics(self)
        return self
