"""FeatureNet of FeatDepth (Shu et al., ECCV 2020): an auto-encoder whose encoder's maps are what views are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ConfigError, TrainConfig
from training.networks import build_encoder
from training.networks.depth_decoder import conv_elu

WIDTHS = (256, 128, 64, 32, 16)
SCALES = 4


class ImageDecoder(nn.Module):
    """The deepest feature back to images, at scales 0 to 3. There are no skips: all that the image needs has to be in it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        steps = pairwise((inputs, *WIDTHS))
        self.steps = nn.ModuleList(nn.ModuleList([conv_elu(a, b), conv_elu(b, b)]) for a, b in steps)
        self.heads = nn.ModuleList(nn.Conv2d(width, 3, 3, padding=1, padding_mode="reflect") for width in WIDTHS[-SCALES:])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H / 32, W / 32) -> RGB in [0, 1] (B, 3, H / 2^scale, W / 2^scale), finest first."""
        images: list[Tensor] = []
        for index, (before, after) in enumerate(self.steps):
            x = after(F.interpolate(before(x), scale_factor=2, mode="nearest"))
            if index > 0:
                images.insert(0, torch.sigmoid(self.heads[index - 1](x)))
        return images


class FeatureNet(nn.Module):
    """An encoder of images and the decoder that teaches it to keep what is in them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = ImageDecoder(encoder.channels[-1])

    def features(self, images: Sequence[Tensor]) -> list[list[Tensor]]:
        """RGB images in [0, 1], each (B, 3, H, W) -> for each its features at strides 2 to 32, in one pass for all."""
        levels = self.encoder(torch.cat(list(images)).contiguous(memory_format=torch.channels_last))
        return [list(parts) for parts in zip(*(level.chunk(len(images)) for level in levels), strict=True)]


def build_feature_net(config: TrainConfig) -> FeatureNet:
    """Build the FeatureNet of the config. Raises ConfigError."""
    network = config.network
    if config.feature.encoder:
        network = replace(network, encoder=config.feature.encoder, pretrained="none")
    encoder = build_encoder(network, images=1)
    if len(encoder.channels) != len(WIDTHS):
        raise ConfigError(
            f"the FeatureNet's encoder is '{network.encoder}', which has no map at half the image's size; "
            "expected feature.encoder to be a ResNet or efficientnet_lite0"
        )
    return FeatureNet(encoder)
