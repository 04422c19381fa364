"""FeatDepth's depth decoder (Shu et al., ECCV 2020): chained residual pooling at every level, and the disparity passed down."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.depth_decoder import ChannelDropout

WIDTH = 256  # channels of every level; a quarter of the deepest feature's where those are fewer
POOLINGS = 4
ENCODER_DROPOUT = 0.5  # of the two deepest features' values, in training


class ChainedPooling(nn.Module):
    """x plus a chain of 5x5 max poolings and 1x1 convolutions, each link added (RefineNet, Lin et al., CVPR 2017)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.links = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in range(POOLINGS))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        link = x
        for convolve in self.links:
            link = convolve(_pool(link))
            x = x + link
        return x


def _pool(x: Tensor) -> Tensor:
    """Maximum over 5x5 pixels as one over rows and one over columns; on CPUs ten times faster in this order of memory."""
    x = x.contiguous(memory_format=torch.channels_last)
    return F.max_pool2d(F.max_pool2d(x, (5, 1), stride=1, padding=(2, 0)), (1, 5), stride=1, padding=(0, 2))


class Level(nn.Module):
    """3x3 convolution, chained pooling, 3x3 convolution, then twice the size."""

    def __init__(self, inputs: int, outputs: int, dropout: bool, site: int) -> None:
        super().__init__()
        self.before = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.pooling = ChainedPooling(outputs)
        self.after = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.drops = nn.ModuleList(ChannelDropout(outputs, 2 * site + i) for i in range(2 * dropout))

    def forward(self, x: Tensor, passes: bool) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, 2 H, 2 W)."""
        x = self._drop(0, F.leaky_relu(self.before(x)), passes)
        x = self._drop(1, F.leaky_relu(self.after(self.pooling(x))), passes)
        return F.interpolate(x, scale_factor=2, mode="nearest")

    def _drop(self, index: int, x: Tensor, passes: bool) -> Tensor:
        return self.drops[index](x, passes) if self.drops else x


class ChainedPoolingDecoder(nn.Module):
    """Maps at scales 1 to 4: 1/2, 1/4, 1/8 and 1/16 of the input's size; the feature at stride 2 is not used.

    Every level sees its skip, reduced by a 1x1 convolution, the coarser level and the coarser level's disparity.
    """

    def __init__(self, channels: Sequence[int], outputs: int, dropout: bool = False) -> None:
        super().__init__()
        self.scales = (1, 2, 3, 4)
        width = min(WIDTH, channels[-1] // 4)
        self.reduce, self.levels, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for scale in reversed(self.scales):
            reduced, inputs = (2 * width, 2 * width) if scale == 4 else (width, 2 * width + 1)
            self.reduce[str(scale)] = nn.Conv2d(channels[scale], reduced, 1, bias=False)
            self.levels[str(scale)] = Level(inputs, width, dropout, scale)
            self.heads[str(scale)] = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, features: Sequence[Tensor], passes: bool = False) -> dict[int, Tensor]:
        """As DepthDecoder.forward(): features at strides 2 .. 32 -> {scale: (B, outputs, H / 2^scale, W / 2^scale)}."""
        maps: dict[int, Tensor] = {}
        coarser: list[Tensor] = []
        for scale in reversed(self.scales):
            feature = F.dropout(features[scale], ENCODER_DROPOUT, self.training) if scale > 2 else features[scale]
            x = self.levels[str(scale)](torch.cat([self.reduce[str(scale)](feature), *coarser], dim=1), passes)
            maps[scale] = self.heads[str(scale)](x)
            coarser = [x, torch.sigmoid(maps[scale][:, :1])]
        return dict(sorted(maps.items()))
