"""The networks that benchmarks/engines.py runs, at any size. Their weights are random: the time does not depend on them."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from depth_ros import bundle as bundles
from depth_ros.bundle import ModelBundle
from training.config import load_config
from training.evaluate import describe_method
from training.export import export
from training.methods import Method, build_method
from training.quantise import quantise, read_frames

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "config" / "train" / "default.yaml"
STREET = ROOT / "assets" / "street" / "image"
CALIBRATED = 8  # images of it: how exact int8 is, no one asks here
# Name -> how its network differs from the shipped model's; sigma comes from the same head in all.
NETWORKS = {
    "default": (),
    "resnet18": ("network.encoder=resnet18", "network.decoder=monodepth2"),
    "lite_mono": ("network.encoder=lite_mono",),
}


def build(name: str, width: int, height: int) -> Method:
    """The method that a bundle is made of, in evaluation mode, with an input of width x height [px]."""
    size = (f"data.width={width}", f"data.height={height}")
    torch.manual_seed(0)
    return build_method(load_config(RECIPE, (*NETWORKS[name], "network.pretrained=none", *size))).eval()


def open_bundle(name: str, width: int, height: int, folder: Path) -> ModelBundle:
    """The bundle <name>_<width>x<height> in `folder`, exported if it is not there yet."""
    path = folder / f"{name}_{width}x{height}"
    if (path / "bundle.yaml").is_file():
        return bundles.load(path)
    method = build(name, width, height)
    method.focal[:] = torch.tensor([0.6 * width, 0.6 * width])  # 80 degrees across
    description = replace(describe_method(method, path.name), trained_on="nothing: random weights", licence="Apache-2.0")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every package that it does not find
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about torch's own code
        return export(method, path, description)


def add_int8(path: Path) -> None:
    """Give the bundle in folder `path` an int8 graph, if it has none."""
    bundle = bundles.load(path)
    if not bundle.int8:
        quantise(bundle, read_frames(STREET, bundle, CALIBRATED), "assets/street")
