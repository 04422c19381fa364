"""What the papers' full trainings cost: floating-point operations per image, counted, and the hours that follow from them.

    python benchmarks/training_cost.py [--out benchmarks/results]

One image's losses and their gradients are run on the CPU at the full size with the recipe of docs/results.md; torch counts the
operations of convolutions and matrix products, which are nearly all. Hours are arithmetic: they take a GPU to sustain
SUSTAINED_TFLOPS, which is an assumption, not a measurement.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from training.batch import Batch, View
from training.config import TrainConfig, load_config
from training.methods import build_method

IMAGES = 39_810  # of the Eigen-Zhou split
SUSTAINED_TFLOPS = 20.0
FEATDEPTH = (
    "data.width=1024", "data.height=320", "network.encoder=resnet50", "network.pretrained=none", "data.known_poses=false",
    "method.normalise_disparity=true",
)  # fmt: skip
LOW_TEXTURE = ("data.width=640", "data.height=192")
# name: (recipe, overrides, epochs)
TRAININGS = {
    "FeatDepth, M, 1024x320": ("config/train/featdepth.yaml", FEATDEPTH, 40),
    "its baseline": ("config/train/featdepth.yaml", (*FEATDEPTH, "method.name=monodepth2"), 40),
    "low-texture system, S, 640x192": ("config/train/low_texture.yaml", LOW_TEXTURE, 20),
    "the baseline of that": ("config/train/low_texture.yaml", (*LOW_TEXTURE, "method.name=monodepth2"), 20),
}


def example(config: TrainConfig) -> Batch:
    """One random image with the views that the configuration trains with."""
    height, width = config.data.height, config.data.width
    K = torch.tensor([[[0.58 * width, 0, width / 2], [0, 1.92 * height, height / 2], [0, 0, 1.0]]])
    pair = torch.eye(4)[None] if config.data.street_views == ("right",) else None
    views = tuple(
        View(torch.rand(1, 3, height, width), torch.rand(1, 3, height, width), K, pair, order=order)
        for order in ((0,) if pair is not None else (-1, 1))
    )
    return Batch(torch.rand(1, 3, height, width), torch.rand(1, 3, height, width), K, views)


def count(recipe: str, overrides: Sequence[str], epochs: int) -> dict[str, float]:
    """Operations per image (a multiply-add is two), weights, and the hours of all epochs."""
    config = load_config(recipe, overrides)
    method = build_method(config).train()
    with FlopCounterMode(display=False) as counter:
        sum(method.losses(example(config)).values()).backward()
    tera = counter.get_total_flops() / 1e12
    return {
        "tflop_per_image": round(tera, 3),
        "weights_million": round(sum(p.numel() for p in method.parameters()) / 1e6, 2),
        "epochs": epochs,
        "hours": round(tera * IMAGES * epochs / SUSTAINED_TFLOPS / 3600, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of training_cost.json")
    options = parser.parse_args(arguments)
    found = {name: count(*training) for name, training in TRAININGS.items()}
    for name, figures in found.items():
        print(f"{name:32}", figures)
    report = describe_run("training_cost.py", arguments)
    report |= {"images_per_epoch": IMAGES, "assumed_sustained_tflops": SUSTAINED_TFLOPS, "trainings": found}
    write_report(report, options.out / "training_cost.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
