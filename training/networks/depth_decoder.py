"""U-Net decoders from encoder features to maps at several scales (disparity logits, and log sigma where asked for)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv_elu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect"), nn.ELU(inplace=True))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


class DepthDecoder(nn.Module):
    """Upsample x2, concatenate the skip, convolve; a head per scale. Scale i has 1 / 2^i of the input's size.

    `light` uses depthwise-separable convolutions and ends at half resolution (scales 1 to 3), for CPUs;
    otherwise it is Monodepth2's decoder (ELU, reflection padding, full resolution, scales 0 to 3).
    """

    def __init__(self, channels: Sequence[int], outputs: int, light: bool) -> None:
        super().__init__()
        self.first_scale = 1 if light else 0
        self.scales = tuple(range(self.first_scale, 4))
        convolve = _separable if light else _conv_elu
        widths = (24, 32, 48, 64, 96) if light else (16, 32, 64, 128, 256)
        self.before, self.after, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        inputs = channels[-1]
        for scale in range(4, self.first_scale - 1, -1):
            skip = channels[scale - 1] if scale > 0 else 0
            self.before[str(scale)] = convolve(inputs, widths[scale])
            self.after[str(scale)] = convolve(widths[scale] + skip, widths[scale])
            inputs = widths[scale]
            if scale in self.scales:
                self.heads[str(scale)] = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect")

    def forward(self, features: Sequence[Tensor]) -> dict[int, Tensor]:
        """Features at strides 2 .. 32 -> {scale: (B, outputs, H / 2^scale, W / 2^scale)}, finest scale first."""
        x = features[-1]
        maps = {}
        for scale in range(4, self.first_scale - 1, -1):
            x = F.interpolate(self.before[str(scale)](x), scale_factor=2, mode="nearest")
            if scale > 0:
                x = torch.cat([x, features[scale - 1]], dim=1)
            x = self.after[str(scale)](x)
            if scale in self.scales:
                maps[scale] = self.heads[str(scale)](x)
        return dict(sorted(maps.items()))
