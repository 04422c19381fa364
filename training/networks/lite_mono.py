"""Lite-Mono (Zhang et al., CVPR 2023): an encoder of dilated convolutions and channel attention, and its decoder.

Where the paper and its published code differ, this follows the code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.depth_decoder import SkipDecoder, conv_elu

EXPANSION = 6  # of the pointwise layers
HEADS = 8  # of the attention
LEAST_NORM = 1e-4  # of a query or key; torch's 1e-12 would be 0 in fp16, and 0 / 0 is NaN
LAYER_SCALE = 1e-6  # each block starts as the identity
DROP_PATH = 0.2  # of the last block; earlier ones drop less, linearly
FREQUENCIES = 32  # of the position encoding, per axis
TEMPERATURE = 10000.0
# Dilations of a stage's blocks, and of the last blocks of the last stage: of the paper's two sizes, 640x192 and 1024x320.
NARROW = ((1, 2, 3), (2, 4, 6))
WIDE = ((1, 2, 5), (2, 4, 10))
WIDE_FROM = 1024  # [px]


@dataclass(frozen=True)
class Variant:
    """Width of each stage; how often its last stage repeats the first dilations; and whether wide images widen them."""

    channels: tuple[int, int, int]
    repeats: int
    widens: bool = True

    def dilations(self, width: int) -> tuple[tuple[int, ...], ...]:
        """Of each stage's blocks, for images `width` px wide: those of 640x192 below 1024 px, and of 1024x320 from there on.

        No weight depends on them: one file of weights fits all sizes.
        """
        first, last = WIDE if self.widens and width >= WIDE_FROM else NARROW
        return first, first, first * self.repeats + last


VARIANTS = {
    "lite_mono_tiny": Variant((32, 64, 128), repeats=1),
    "lite_mono_small": Variant((48, 80, 128), repeats=1),
    "lite_mono": Variant((48, 80, 128), repeats=2),
    "lite_mono_8m": Variant((64, 128, 224), repeats=2, widens=False),
}


def _conv_bn_gelu(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.GELU())


class DropPath(nn.Module):
    """Drops a block's whole residual branch for a random `rate` of the images in training (Huang et al., ECCV 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...), unchanged in expectation."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * kept / (1 - self.rate)


class DilatedBlock(nn.Module):
    """CDC block: x + scaled(pointwise(GELU(pointwise(BN(depthwise dilated 3x3))))) (section 3.2)."""

    def __init__(self, width: int, dilation: int, drop: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, EXPANSION * width, 1),
            nn.GELU(),
            nn.Conv2d(EXPANSION * width, width, 1),
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), LAYER_SCALE))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        return x + self.drop(self.scale * self.body(x))


class ChannelAttention(nn.Module):
    """Cross-covariance attention: channels attend to channels, at a cost linear in the pixels (El-Nouby et al., 2021)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.project = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width); q and k have unit length along the N tokens."""
        batch, count, width = tokens.shape
        q, k, v = self.qkv(tokens).reshape(batch, count, 3, HEADS, width // HEADS).permute(2, 0, 3, 4, 1)
        q, k = (F.normalize(x, dim=-1, eps=LEAST_NORM) for x in (q, k))
        weights = q @ k.transpose(-2, -1)
        attended = (weights * self.temperature).softmax(dim=-1) @ v
        return self.project(attended.permute(0, 3, 1, 2).reshape(batch, count, width))


class PositionEncoding(nn.Module):
    """Sines and cosines of the normalised row and column, mixed by a 1x1 convolution (Carion et al., ECCV 2020)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * FREQUENCIES, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (1, width, H, W)."""
        height, width = x.shape[-2:]
        rows = _waves(height, x)[:, :, None].expand(-1, -1, width)
        columns = _waves(width, x)[:, None, :].expand(-1, height, -1)
        return self.mix(torch.cat([rows, columns])[None])


def _waves(size: int, like: Tensor) -> Tensor:
    """(FREQUENCIES, size): sine and cosine in turn of positions 1 .. size, a full turn at the slowest."""
    phase = torch.arange(1, size + 1, device=like.device, dtype=like.dtype) * (2 * math.pi / size)
    exponent = torch.arange(0, FREQUENCIES, 2, device=like.device, dtype=like.dtype) / FREQUENCIES
    angle = phase / TEMPERATURE ** exponent[:, None]
    return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)


class AttentionBlock(nn.Module):
    """LGFI block: channel attention, then pointwise layers; the shortcut starts before the attention (section 3.2)."""

    def __init__(self, width: int, position: bool, drop: float) -> None:
        super().__init__()
        self.position = PositionEncoding(width) if position else None
        self.attention = nn.Sequential(nn.LayerNorm(width, eps=1e-6), ChannelAttention(width))
        self.attention_scale = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.body = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, EXPANSION * width),
            nn.GELU(),
            nn.Linear(EXPANSION * width, width),
        )
        self.scale = nn.Parameter(torch.full((width,), LAYER_SCALE))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> (B, width, H, W)."""
        placed = x if self.position is None else x + self.position(x)
        tokens = placed.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention_scale * self.attention(tokens)
        tokens = self.scale * self.body(tokens)
        return x + self.drop(tokens.transpose(1, 2).reshape(x.shape))


class LiteMono(nn.Module):
    """Three feature maps at strides 4, 8 and 16; each stage also sees the image, and the input of the stage before it.

    `width` [px] of the images that it is for decides its dilations.
    """

    def __init__(self, variant: Variant, images: int = 1, width: int = 640) -> None:
        super().__init__()
        self.channels = variant.channels
        colours = 3 * images
        first = self.channels[0]
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.stem = nn.Sequential(
            _conv_bn_gelu(colours, first, 2), _conv_bn_gelu(first, first, 1), _conv_bn_gelu(first, first, 1)
        )
        inputs = (first + colours, *(2 * channels + colours for channels in self.channels[:-1]))
        self.reductions = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1, bias=False) for i, o in zip(inputs, self.channels, strict=True))
        dilations = variant.dilations(width)
        ends = (0, *accumulate(len(d) + 1 for d in dilations))
        drops = [DROP_PATH * block / (ends[-1] - 1) for block in range(ends[-1])]
        self.stages = nn.ModuleList(
            _stage(channels, values, drops[start:end], position=start == 0)
            for channels, values, (start, end) in zip(self.channels, dilations, pairwise(ends), strict=True)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB images in [0, 1] (B, 3 * images, H, W) -> features (B, channels[i], H / 2^(i+2), W / 2^(i+2))."""
        image = (image - 0.45) / 0.225
        seen = [self.stem(image)]
        features = []
        for reduction, stage in zip(self.reductions, self.stages, strict=True):
            image = self.pool(image)
            reduced = reduction(torch.cat([*seen, image], dim=1))
            features.append(stage(reduced))
            seen = [reduced, features[-1]]
        return features


def _stage(width: int, dilations: Sequence[int], drops: Sequence[float], position: bool) -> nn.Sequential:
    blocks = [DilatedBlock(width, dilation, drop) for dilation, drop in zip(dilations, drops[:-1], strict=True)]
    return nn.Sequential(*blocks, AttentionBlock(width, position, drops[-1]))


class LiteMonoDecoder(SkipDecoder):
    """Half the encoder's widths, bilinear upsampling, three heads; scale i has 1 / 2^(i+1) of the input's size."""

    upsampling = "bilinear"

    def __init__(self, channels: Sequence[int], outputs: int, dropout: bool = False) -> None:
        widths = {scale: width // 2 for scale, width in enumerate(channels)}
        super().__init__(channels, outputs, conv_elu, widths, widths.keys(), dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
