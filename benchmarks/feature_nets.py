"""What the benchmarks of FeatDepth's features share: FeatureNets by name, and mostly plain worlds that no run has seen."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.checkpoint import load_method
from training.config import ConfigError
from training.data.street import Street, StreetConfig
from training.data.street.config import SCENES
from training.networks.feature_net import FeatureNet

SIZE = (192, 64)  # width, height [px]


def world(index: int, seed: int, noise: float = StreetConfig.noise) -> Street:
    """One of the worlds, whose scenes take turns; `noise` is the sensor's standard deviation [grey levels]."""
    scene = SCENES[index % len(SCENES)]
    return Street(seed + index, StreetConfig(scene=scene, plain=0.7, noise=noise, textures="test"))


def as_tensor(image: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def open_feature_net(path: str) -> FeatureNet:
    """The FeatureNet of a checkpoint, in evaluation mode. Raises ConfigError."""
    method = load_method(path)
    net = getattr(method, "feature_net", None)
    if net is None:
        raise ConfigError(
            f"{path} is of method {method.config.method.name}, which trained no FeatureNet; "
            "expected one that did: feature_net, featdepth, low_texture"
        )
    return net.eval()


def command_line(description: str | None, name: str, nets: str = "*") -> argparse.ArgumentParser:
    """The arguments of a benchmark called `name`, which writes `name`.json and draws `name`.png."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs=nets, metavar="NAME=CHECKPOINT", help="of method feature_net, featdepth or low_texture")
    parser.add_argument("--count", type=int, default=24, help="views (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=700, help="of the worlds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help=f"folder of {name}.json")
    parser.add_argument("--figure", type=Path, default=Path(f"docs/{name}.png"), help="(default: %(default)s)")
    return parser
