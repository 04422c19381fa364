"""The tables of encoders and decoders, and the networks made of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ConfigError, NetworkConfig
from training.networks.batchnorm import freeze_statistics
from training.networks.chained_pooling import ChainedPoolingDecoder
from training.networks.depth_decoder import PASSES, DepthDecoder
from training.networks.efficientnet_lite import EfficientNetLite0, load_imagenet
from training.networks.lite_mono import VARIANTS, LiteMono, LiteMonoDecoder
from training.networks.lite_mono_weights import from_published
from training.networks.midas_decoder import MidasDecoder
from training.networks.nested_decoder import NestedDecoder
from training.networks.pose_net import PoseNet
from training.networks.resnet import resnet18, resnet50

ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "resnet18": resnet18,
    "resnet50": resnet50,
    **{name: partial(LiteMono, variant) for name, variant in VARIANTS.items()},
}
# Each takes the channels of the features at strides 2, 4 and so on, the number of outputs and whether to drop channels; has
# `heads`, and answers as DepthDecoder.
DECODERS: dict[str, Callable[..., nn.Module]] = {
    "light": partial(DepthDecoder, light=True),
    "monodepth2": partial(DepthDecoder, light=False),
    "chained_pooling": ChainedPoolingDecoder,
    "nested": partial(NestedDecoder, light=False),
    "nested_light": partial(NestedDecoder, light=True),
    "midas": partial(MidasDecoder, light=False),
    "midas_small": partial(MidasDecoder, light=True),
}
FROM_STRIDE_4 = ("midas", "midas_small")  # those that use no feature at stride 2
RESNET_CHANGES = ("last_relu_only", "pooled_shortcut")
DISPARITY_BIAS = -2.5  # starts at far, plausible depths; 0 starts at 2 * min_depth and can saturate


class DepthNet(nn.Module):
    """Encoder and decoder: an image to disparity maps, and what else a part of training/uncertainty.py asks for.

    `width` [px] is that of the images it is for, on which Lite-Mono's dilations depend.
    """

    def __init__(self, config: NetworkConfig, outputs: int, dropout: bool = False, width: int = 640) -> None:
        super().__init__()
        self.frozen_batchnorm = config.frozen_batchnorm
        self.encoder = build_encoder(config, images=1, width=width, **_resnet_changes(config))
        self.decoder = _build_decoder(config, self.encoder.channels, outputs, dropout)
        for head in self.decoder.heads.values():
            nn.init.constant_(head.bias[:1], DISPARITY_BIAS)

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB in [0, 1] (B, 3, H, W) -> maps (B, outputs, H, W), finest first, all upsampled bilinearly to the input's size."""
        maps = self.decoder(self.features(image)).values()
        return [resize(m, image.shape[-2:]) for m in maps]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """As forward(), but scale i has 1 / 2^i of the input's size."""
        maps = self.decoder(self.features(image)).values()
        return [resize(m, (image.shape[-2] >> scale, image.shape[-1] >> scale)) for scale, m in enumerate(maps)]

    def passes(self, image: Tensor) -> Tensor:
        """Finest map (B, PASSES, outputs, H, W) of passes through the decoder that drop different, but always the same, channels.

        The encoder drops none and runs once.
        """
        features = [f[:, None].expand(-1, PASSES, -1, -1, -1).flatten(0, 1) for f in self.features(image)]
        finest = next(iter(self.decoder(features, passes=True).values()))
        return resize(finest, image.shape[-2:]).unflatten(0, (-1, PASSES))

    def features(self, image: Tensor) -> list[Tensor]:
        """RGB in [0, 1] (B, 3, H, W) -> the encoder's features, finest first."""
        return self.encoder(image.contiguous(memory_format=torch.channels_last))  # faster convolutions, on CPUs and GPUs

    def train(self, mode: bool = True) -> DepthNet:
        """Switch to training, with BatchNorm's statistics kept where the configuration says so."""
        super().train(mode)
        if self.frozen_batchnorm:
            freeze_statistics(self)
        return self


def resize(values: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) bilinearly at another size (H, W)."""
    return F.interpolate(values.contiguous(), size=tuple(size), mode="bilinear", align_corners=False)


def build_encoder(config: NetworkConfig, images: int, width: int = 640, **changes: bool) -> nn.Module:
    """Build the encoder named in the config for `images` stacked images, with pretrained weights where asked for.

    Its attribute `pretrained` says whether it has them. `width` is as in DepthNet; `changes` are those of
    training/networks/resnet.py; without them it is an ordinary one.
    """
    if config.encoder not in ENCODERS:
        raise ConfigError(f"network.encoder is '{config.encoder}'; expected one of {', '.join(ENCODERS)}")
    sized = {"width": width} if config.encoder in VARIANTS else {}
    encoder = ENCODERS[config.encoder](images, **sized, **changes)
    if config.pretrained == "imagenet":
        if not isinstance(encoder, EfficientNetLite0):
            raise ConfigError(
                f"network.pretrained is 'imagenet', but no such weights of {config.encoder} come with the packages; "
                "give the path of a state_dict, or none"
            )
        load_imagenet(encoder)
    elif config.pretrained != "none":
        _load_state(encoder, config, images)
    encoder.pretrained = config.pretrained != "none"
    return encoder


def _load_state(encoder: nn.Module, config: NetworkConfig, images: int) -> None:
    """Load the file that network.pretrained names. Raises ConfigError."""
    path = Path(config.pretrained)
    if not path.is_file():
        raise ConfigError(f"network.pretrained: {path} does not exist; expected imagenet, none or the path of a state_dict")
    try:
        with torch.serialization.safe_globals([Namespace]):  # the options of a run, which Lite-Mono's pre-training stores
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise RuntimeError(f"found a {type(state).__name__}")
        if config.encoder in VARIANTS:
            state = from_published(state, config.encoder)
        encoder.load_state_dict(_for_stacked(state, encoder.state_dict(), images))
    except ValueError as error:
        raise ConfigError(f"network.pretrained: {path}: {error}") from error
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise ConfigError(f"network.pretrained: {path}: does not fit {config.encoder}; expected its state_dict") from error


def _for_stacked(state: dict[str, Tensor], own: dict[str, Tensor], images: int) -> dict[str, Tensor]:
    """Weights for one image, as they are for several: those of its colours repeated and divided by their number (Monodepth2).

    Colours are the last inputs of a convolution: of a stem all of them, and in Lite-Mono a few of every stage's.
    """

    def stack(name: str, value: Tensor) -> Tensor:
        sees_image = name in own and value.ndim == 4 and own[name].shape[1] == value.shape[1] + 3 * (images - 1)
        if images == 1 or not sees_image:
            return value
        return torch.cat([value[:, :-3], value[:, -3:].repeat(1, images, 1, 1) / images], dim=1)

    return {name: stack(name, value) for name, value in state.items()}


def _build_decoder(config: NetworkConfig, channels: Sequence[int], outputs: int, dropout: bool) -> nn.Module:
    """The decoder that the config asks for, of features with these channels. Raises ConfigError."""
    if config.encoder in VARIANTS:  # it has no feature at stride 2
        if config.decoder == NetworkConfig.decoder:
            return LiteMonoDecoder(channels, outputs, dropout)
        if config.decoder not in FROM_STRIDE_4:
            raise ConfigError(
                f"network.decoder is '{config.decoder}', but {config.encoder} has its own; expected the key to be left out, or "
                f"one of {', '.join(FROM_STRIDE_4)}"
            )
        channels = (0, *channels)
    if config.decoder not in DECODERS:
        raise ConfigError(f"network.decoder is '{config.decoder}'; expected one of {', '.join(DECODERS)}")
    return DECODERS[config.decoder](channels, outputs, dropout=dropout)


def build_pose_net(config: NetworkConfig, width: int = 640) -> PoseNet:
    """Build the pose network with the config's encoder, an ordinary one; `width` is as in DepthNet."""
    return PoseNet(build_encoder(config, images=2, width=width))


def _resnet_changes(config: NetworkConfig) -> dict[str, bool]:
    """The changes to a ResNet that the config asks of the depth network. Raises ConfigError for another encoder."""
    changes = {name: True for name in RESNET_CHANGES if getattr(config, name)}
    if changes and not config.encoder.startswith("resnet"):
        raise ConfigError(
            f"network.{next(iter(changes))} changes a ResNet, not {config.encoder}; expected false, or another encoder"
        )
    return changes
