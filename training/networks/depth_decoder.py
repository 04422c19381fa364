"""U-Net decoders from encoder features to maps at several scales (disparity logits, and log sigma where asked for)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROPPED = 0.2  # share of a convolution's channels (Poggi et al., CVPR 2020)
PASSES = 8  # with dropped channels, for one prediction
MASK_SEED = 0


def conv_elu(inputs: int, outputs: int) -> nn.Sequential:
    """Monodepth2's decoder layer: 3x3 convolution with reflection padding, ELU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="reflect"), nn.ELU(inplace=True))


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


def layers(light: bool) -> tuple[Callable[[int, int], nn.Sequential], tuple[int, ...]]:
    """A decoder's convolution (inputs, outputs), and its widths at scales 0 to 4."""
    return (_separable, (24, 32, 48, 64, 96)) if light else (conv_elu, (16, 32, 64, 128, 256))


class ChannelDropout(nn.Module):
    """Dropout of whole channels: random ones in training, PASSES fixed choices in prediction: a graph is deterministic."""

    masks: Tensor  # (PASSES, C) factors: 0, or what makes up for the dropped channels

    def __init__(self, channels: int, site: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(MASK_SEED + site)
        kept = torch.rand(PASSES, channels, generator=generator) >= DROPPED
        self.register_buffer("masks", kept / (1 - DROPPED))

    def forward(self, x: Tensor, passes: bool) -> Tensor:
        """(B, C, H, W) with some channels dropped; with `passes`, (B * PASSES, C, H, W) whose passes get a mask each."""
        if passes:
            return (x.unflatten(0, (-1, PASSES)) * self.masks[:, :, None, None]).flatten(0, 1)
        return F.dropout2d(x, DROPPED, self.training)


class SkipDecoder(nn.Module):
    """Upsample x2, concatenate the skip, convolve, from the deepest feature to the finest of `widths`; heads where asked for.

    `widths` are the channels by scale; scale i has the next finer feature, `channels[i - 1]`, as its skip, and scale 0 none.
    With `dropout`, channels are dropped after every convolution but the heads.
    """

    upsampling = "nearest"

    def __init__(
        self,
        channels: Sequence[int],
        outputs: int,
        convolve: Callable[[int, int], nn.Sequential],
        widths: Mapping[int, int],
        heads: Collection[int],
        dropout: bool,
    ) -> None:
        super().__init__()
        self.scales = tuple(sorted(widths, reverse=True))
        self.before, self.after, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.drops = nn.ModuleDict()
        inputs = channels[-1]
        for scale in self.scales:
            width, skip = widths[scale], channels[scale - 1] if scale > 0 else 0
            self.before[str(scale)] = convolve(inputs, width)
            self.after[str(scale)] = convolve(width + skip, width)
            if dropout:
                self.drops[f"before{scale}"] = ChannelDropout(width, 2 * scale)
                self.drops[f"after{scale}"] = ChannelDropout(width, 2 * scale + 1)
            if scale in heads:
                self.heads[str(scale)] = nn.Conv2d(width, outputs, 3, padding=1, padding_mode="reflect")
            inputs = width

    def forward(self, features: Sequence[Tensor], passes: bool = False) -> dict[int, Tensor]:
        """Features, each half the size of the one before -> {scale: (B, outputs, h / 2^scale, w / 2^scale)}, finest first.

        h and w are twice the first feature's size. With `passes`, the features hold PASSES copies of each image, one after the
        other, and each copy drops other channels.
        """
        x = features[-1]
        maps = {}
        for scale in self.scales:
            x = self._drop(f"before{scale}", self.before[str(scale)](x), passes)
            x = F.interpolate(x, scale_factor=2, mode=self.upsampling)
            if scale > 0:
                x = torch.cat([x, features[scale - 1]], dim=1)
            x = self._drop(f"after{scale}", self.after[str(scale)](x), passes)
            if str(scale) in self.heads:
                maps[scale] = self.heads[str(scale)](x)
        return dict(sorted(maps.items()))

    def _drop(self, site: str, x: Tensor, passes: bool) -> Tensor:
        return self.drops[site](x, passes) if self.drops else x


class DepthDecoder(SkipDecoder):
    """Of features at strides 2 .. 32; scale i has 1 / 2^i of the input's size.

    `light` uses depthwise-separable convolutions and ends at half resolution (scales 1 to 3), for CPUs;
    otherwise it is Monodepth2's decoder (ELU, reflection padding, full resolution, scales 0 to 3).
    """

    def __init__(self, channels: Sequence[int], outputs: int, light: bool, dropout: bool = False) -> None:
        convolve, widths = layers(light)
        scales = {scale: width for scale, width in enumerate(widths) if scale > 0 or not light}
        super().__init__(channels, outputs, convolve, scales, range(4), dropout)
