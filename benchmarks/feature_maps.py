"""What each loss term does to the feature maps of FeatDepth's FeatureNet, as pictures and as slopes and bends.

    python benchmarks/feature_maps.py NAME=CHECKPOINT... [--out benchmarks/results] [--figure docs/feature_maps.png]

Checkpoints are of methods that have a FeatureNet of their own. Of its finest maps: their three principal components as colours,
how steep they are (|d phi|, which L_dis wants large) and how bent (|d2 phi|, which L_cvt wants small), per standard deviation of
the features so that nets can be compared; on plain and on textured surfaces of procedural worlds that no run has seen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.feature_nets import SIZE, as_tensor, command_line, open_feature_net, world
from benchmarks.named import open_named
from benchmarks.report import describe_run, write_report
from training.config import ConfigError
from training.data.street import kitti_camera
from training.data.street.config import SCENES
from training.feature_losses import shrink
from training.networks.feature_net import FeatureNet

PANELS = ("components", "|d phi|", "|d2 phi|")


def render(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [0, 1] and where their surfaces are plain (B, 1, H, W); scenes take turns."""
    images, plain = [], []
    for index in range(count):
        street = world(index, seed)
        view = street.render(kitti_camera(*SIZE), street.pose(1.0), 1.0)
        images.append(as_tensor(view.image))
        plain.append(torch.from_numpy(view.plain)[None].float())
    return torch.stack(images), torch.stack(plain)


def steepness(features: Tensor, order: int) -> Tensor:
    """Mean over the channels of |d^order phi| along x and y, (B, h, w); 0 at the last rows and columns, which have none."""
    total = torch.zeros_like(features[:, 0])
    for axis in (-1, -2):
        change = features.diff(n=order, dim=axis).abs().mean(dim=1)
        total[:, : change.shape[-2], : change.shape[-1]] += change
    return total


def components(features: Tensor) -> Tensor:
    """Three principal components over all pixels, (B, h, w, 3), each from 0 (2 %) to 1 (98 %)."""
    flat = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    _, _, axes = torch.pca_lowrank(flat, q=3)
    shown = (flat - flat.mean(dim=0)) @ axes
    low, high = (torch.quantile(shown[::7], q, dim=0) for q in (0.02, 0.98))
    return ((shown - low) / (high - low)).clamp(0, 1).reshape(len(features), *features.shape[-2:], 3)


def look(net: FeatureNet, images: Tensor, plain: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The figures of one net per group of pixels, and its panels."""
    torch.manual_seed(0)  # of the principal components
    with torch.no_grad():
        (levels,) = net.features([images])
    features = levels[0] / levels[0].std()
    share = shrink(plain, features)[:, 0]
    groups = {"plain": share == 1, "textured": share == 0}
    panels = dict(zip(PANELS, (components(features), steepness(features, 1), steepness(features, 2)), strict=True))
    figures = {
        group: {name: round(float(panels[name][mask].mean()), 5) for name in PANELS[1:]} | {"pixels": int(mask.sum())}
        for group, mask in groups.items()
    }
    return figures, panels


def draw(images: Tensor, nets: dict[str, dict[str, Tensor]], file: Path) -> None:
    """One row per net, one group of panels per scene; the brightest slope is the 98th percentile of the first net's."""
    scenes = SCENES[:2]
    figure = Figure(figsize=(2.4 * (1 + len(PANELS)) + 1.6, 0.4 + 0.8 * len(scenes) * len(nets)), layout="constrained")
    axes = figure.subplots(len(scenes) * len(nets), 1 + len(PANELS), squeeze=False)
    top = {name: float(torch.quantile(next(iter(nets.values()))[name].flatten(), 0.98)) for name in PANELS[1:]}
    for row, (scene, net) in zip(axes, ((s, n) for s in range(len(scenes)) for n in nets), strict=True):
        row[0].imshow(images[scene].permute(1, 2, 0).numpy())
        row[0].set_ylabel(net, rotation=0, ha="right", va="center", fontsize=9)
        for axis, (name, panel) in zip(row[1:], nets[net].items(), strict=True):
            axis.imshow(panel[scene].numpy(), vmin=0, vmax=top.get(name), cmap="magma")
        for axis in row:
            axis.set(xticks=[], yticks=[])
    for axis, name in zip(axes[0], ("image", *PANELS), strict=True):
        axis.set_title(name, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=75)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = command_line(__doc__, "feature_maps", nets="+").parse_args(arguments)
    torch.set_num_threads(1)
    try:
        nets = open_named(options.nets, open_feature_net)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    images, plain = render(options.count, options.seed)
    seen = {name: look(net, images, plain) for name, net in nets.items()}
    for name, (figures, _) in seen.items():
        print(name, figures)
    report = describe_run("feature_maps.py", arguments) | {"nets": {name: figures for name, (figures, _) in seen.items()}}
    write_report(report, options.out / "feature_maps.json")
    draw(images, {name: panels for name, (_, panels) in seen.items()}, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
