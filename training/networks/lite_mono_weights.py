"""Lite-Mono's weights in the layout of the published code (github.com/noahzn/Lite-Mono), by the names that they have here.

Two kinds of file have it: ImageNet weights, {"model": ...} with a classifier, and the encoder.pth of a network for depth, with
the size of its images beside the weights. The blocks of both hold a LayerNorm that the published code never applies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from training.networks.lite_mono import VARIANTS, DilatedBlock, LiteMono, Variant

DILATED = {"body.0": "ddwconv.conv", "body.1": "bn1", "body.2": "pwconv1", "body.4": "pwconv2", "scale": "gamma"}
ATTENTION = {
    "position.mix": "pos_embd.token_projection",
    "attention.0": "norm_xca",
    "attention.1.qkv": "xca.qkv",
    "attention.1.temperature": "xca.temperature",
    "attention.1.project": "xca.proj",
    "attention_scale": "gamma_xca",
    "body.0": "norm",
    "body.1": "pwconv1",
    "body.3": "pwconv2",
    "scale": "gamma",
}
MARK = "stem2.0.conv.weight"  # no state_dict of ours has such a name


def from_published(stored: dict[str, Any], name: str) -> dict[str, Tensor]:
    """The state_dict of variant `name`, for one image, from a file in the published layout; another file's is left as it is.

    Raises ValueError if the file is of another variant.
    """
    published = stored.get("model", stored)
    if MARK not in published:
        return stored
    state = _translate(published, VARIANTS[name])
    if not state:
        found = (other for other, variant in VARIANTS.items() if _translate(published, variant))
        raise ValueError(f"holds the weights of {next(found, 'an unknown Lite-Mono')}; expected those of {name}")
    return state


def _translate(published: dict[str, Tensor], variant: Variant) -> dict[str, Tensor]:
    """The variant's state_dict; empty if a weight is missing or of another shape. What the network has no use for is left out."""
    with torch.device("meta"):
        encoder = LiteMono(variant)
    state, prefixes = {}, _prefixes(encoder)
    for name, own in encoder.state_dict().items():
        module, _, last = name.rpartition(".")
        value = published.get(f"{prefixes[module]}.{last}" if module in prefixes else prefixes[name])
        if value is None or (*value.shape, *[1] * (own.ndim - value.ndim)) != own.shape:
            return {}
        state[name] = value.reshape(own.shape)  # a linear layer is a 1x1 convolution here, and a scale has its axes
    return state


def _prefixes(encoder: LiteMono) -> dict[str, str]:
    """The published name of every layer and of every weight that is in none."""
    names = {"reductions.0": "stem2.0.conv"}
    for index in range(len(encoder.stem)):
        names[f"stem.{index}.0"] = f"downsample_layers.0.{index}.conv"
        names[f"stem.{index}.1"] = f"downsample_layers.0.{index}.bn_gelu.bn"
    for index, stage in enumerate(encoder.stages):
        if index > 0:
            names[f"reductions.{index}"] = f"downsample_layers.{index}.0.conv"
        for number, block in enumerate(stage):
            table = DILATED if isinstance(block, DilatedBlock) else ATTENTION
            names |= {f"stages.{index}.{number}.{own}": f"stages.{index}.{number}.{theirs}" for own, theirs in table.items()}
    return names
