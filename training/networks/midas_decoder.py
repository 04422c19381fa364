"""MiDaS's decoder (Ranftl et al., TPAMI 2022): features fused from deep to shallow as in RefineNet (Lin et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from training.networks.depth_decoder import ChannelDropout

WIDTHS = {False: 256, True: 64}  # channels throughout, the second where the convolutions are light
HEAD_WIDTH = 32  # before the last convolution


def convolution(inputs: int, outputs: int, light: bool, bias: bool = True) -> nn.Module:
    """3x3; light: depthwise, then 1x1."""
    if not light:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    return nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1, bias=bias))


class ResidualUnit(nn.Module):
    """x plus ReLU, 3x3, ReLU, 3x3 of it."""

    def __init__(self, channels: int, light: bool) -> None:
        super().__init__()
        self.first, self.second = (convolution(channels, channels, light) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return x + self.second(F.relu(self.first(F.relu(x))))


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2 H, 2 W), the corners staying where they are."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class MidasDecoder(nn.Module):
    """A single map, of the input's size (scale 0); its last ReLU is left to the method, which says what the map means.

    Fused are the features at stride 4 and coarser, down to whatever stride; one at stride 2 is not used, so there need be none
    (its channels are 0 then). `light` has a quarter of the channels and depthwise-separable convolutions, for CPUs.
    """

    def __init__(self, channels: Sequence[int], outputs: int, light: bool, dropout: bool = False) -> None:
        super().__init__()
        width = WIDTHS[light]
        self.scales = range(len(channels) - 1, 0, -1)  # of 1 / 2^(scale + 1) of the input's size
        self.reduce, self.skip_units, self.units = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for scale in self.scales:
            self.reduce[str(scale)] = convolution(channels[scale], width, light, bias=False)
            if scale != self.scales[0]:
                self.skip_units[str(scale)] = ResidualUnit(width, light)
            self.units[str(scale)] = ResidualUnit(width, light)
        self.narrow = convolution(width, width // 2, light)
        self.refine = convolution(width // 2, HEAD_WIDTH, light)
        self.heads = nn.ModuleDict({"0": nn.Conv2d(HEAD_WIDTH, outputs, 1)})
        self.drops = nn.ModuleDict({str(s): ChannelDropout(width, s) for s in self.scales} if dropout else {})

    def forward(self, features: Sequence[Tensor], passes: bool = False) -> dict[int, Tensor]:
        """As DepthDecoder.forward(): features, finest first -> {0: (B, outputs, H, W)}."""
        deepest, *others = self.scales
        fused = self._fuse(deepest, self._reduced(deepest, features), passes)
        for scale in others:
            fused = self._fuse(scale, fused + self.skip_units[str(scale)](self._reduced(scale, features)), passes)
        return {0: self.heads["0"](F.relu(self.refine(double(self.narrow(fused)))))}

    def _reduced(self, scale: int, features: Sequence[Tensor]) -> Tensor:
        return self.reduce[str(scale)](features[scale - len(self.scales) - 1])  # from the end: the first may be missing

    def _fuse(self, scale: int, x: Tensor, passes: bool) -> Tensor:
        x = self.units[str(scale)](x)
        return double(self.drops[str(scale)](x, passes) if self.drops else x)
