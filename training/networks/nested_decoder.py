"""The decoder of the low-texture system: nested, dense skips (UNet++, Zhou et al. 2018; HR-Depth, Lyu et al., AAAI 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.depth_decoder import ChannelDropout, layers

LEVELS = 5  # of the encoder, at strides 2 .. 32


class NestedDecoder(nn.Module):
    """DepthDecoder whose skips are nodes of their own, so that deep features reach every shallower level in many ways.

    Node (i, j) lies at stride 2^(i+1); (i, 0) is the encoder's feature, and every other node takes (i+1, j-1), upsampled x2, and
    all of (i, 0) to (i, j-1). The last node of a level feeds its head. Without the nodes between a level's first and last this is
    DepthDecoder: widths, convolutions, upsampling, heads, `light` and `dropout` are its own.
    """

    def __init__(self, channels: Sequence[int], outputs: int, light: bool, dropout: bool = False) -> None:
        super().__init__()
        self.first_scale = 1 if light else 0
        convolve, widths = layers(light)
        self.before, self.after, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.drops = nn.ModuleDict()

        def add(node: str, deeper: int, width: int, skips: int) -> None:
            self.before[node], self.after[node] = convolve(deeper, width), convolve(width + skips, width)
            if dropout:
                self.drops[f"before{node}"] = ChannelDropout(width, len(self.drops))
                self.drops[f"after{node}"] = ChannelDropout(width, len(self.drops))

        for level, column in _order():
            deeper = channels[level + 1] if column == 1 else widths[level + 2]
            width = widths[level + 1]
            add(f"{level}{column}", deeper, width, skips=channels[level] + (column - 1) * width)
        if not light:
            add("full", deeper=widths[1], width=widths[0], skips=0)
        for scale in range(self.first_scale, 4):
            self.heads[str(scale)] = nn.Conv2d(widths[scale], outputs, 3, padding=1, padding_mode="reflect")

    def nodes(self, features: Sequence[Tensor], passes: bool = False) -> dict[tuple[int, int], Tensor]:
        """Features at strides 2 .. 32 -> {(i, j): (B, width, H / 2^(i+1), W / 2^(i+1))}, the features among them."""
        nodes = {(level, 0): feature for level, feature in enumerate(features)}
        for level, column in _order():
            skips = [nodes[level, j] for j in range(column)]
            nodes[level, column] = self._node(f"{level}{column}", nodes[level + 1, column - 1], skips, passes)
        return nodes

    def forward(self, features: Sequence[Tensor], passes: bool = False) -> dict[int, Tensor]:
        """As DepthDecoder: {scale: (B, outputs, H / 2^scale, W / 2^scale)}, finest scale first."""
        nodes = self.nodes(features, passes)
        last = {level + 1: nodes[level, LEVELS - 1 - level] for level in range(3)}
        if self.first_scale == 0:
            last = {0: self._node("full", last[1], [], passes), **last}
        return {scale: self.heads[str(scale)](node) for scale, node in last.items()}

    def _node(self, name: str, deeper: Tensor, skips: Sequence[Tensor], passes: bool) -> Tensor:
        x = self._drop(f"before{name}", self.before[name](deeper), passes)
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self._drop(f"after{name}", self.after[name](torch.cat([x, *skips], dim=1)), passes)

    def _drop(self, site: str, x: Tensor, passes: bool) -> Tensor:
        return self.drops[site](x, passes) if self.drops else x


def _order() -> list[tuple[int, int]]:
    """(level, column) of all nodes but the encoder's, each after the ones that it takes."""
    return [(level, column) for column in range(1, LEVELS) for level in range(LEVELS - column)]
