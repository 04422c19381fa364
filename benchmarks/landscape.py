"""What the errors that train depth look like on surfaces without texture, with no depth network in between.

    python benchmarks/landscape.py NAME=FEATURE_NET.ckpt... [--out benchmarks/results] [--figure docs/landscape.png]

Stereo pairs of procedural worlds with plain walls, floors and grounds, rendered with several strengths of sensor noise. The true
depth of every pixel is multiplied by one factor after the other: the photometric error and the feature-metric error of
each FeatureNet over that factor are its landscape. Its slope towards the truth is what a network could learn from; what is
reached by following it from a wrong depth, block by block of 2x2 pixels, is the depth that the error alone knows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from training.checkpoint import load_method
from training.data.street import Street, StreetConfig, kitti_camera
from training.data.street.samples import BASELINE_M
from training.feature_losses import feature_metric_error
from training.geometry import warp
from training.losses import photometric_error
from training.methods.featdepth import FeatureNetAlone

NOISES = (0.0, 2.0, 5.0)  # [grey levels]
SCENES = ("street", "room", "ground")
LEAST_PARALLAX = 2.0  # [px]: a pixel with less says nothing at this size
FACTORS = np.exp(np.linspace(-np.log(2), np.log(2), 41))
STARTS = (0.7, 1.4)  # times the true depth
STEPS, RATE = 150, 0.02  # of Adam on log depth

Error = Callable[[Tensor], Tensor]  # depth (B, 1, H, W) [m] -> error (B, 1, H, W)


class Pairs:
    """Rendered stereo pairs with true depth, and which pixels are plain or textured, near enough and seen by both cameras."""

    def __init__(self, noise: float, count: int, seed: int, size: tuple[int, int] = (192, 64)) -> None:
        camera = kitti_camera(*size)
        views, depths, plain, baselines = [], [], [], []
        for index in range(count):
            scene = SCENES[index % len(SCENES)]
            street = Street(seed + index, StreetConfig(scene=scene, plain=0.7, noise=noise, textures="test"))
            aside = np.eye(4)
            aside[0, 3] = BASELINE_M[scene]
            left, right = (street.render(camera, pose, 1.0) for pose in (street.pose(1.0), street.pose(1.0) @ aside))
            views.append([_image(left.image), _image(right.image)])
            depths.append(np.minimum(left.depth, 1e3))
            plain.append(left.plain)
            baselines.append(BASELINE_M[scene])
        self.left, self.right = (torch.stack([pair[side] for pair in views]) for side in (0, 1))
        self.K = torch.from_numpy(camera.K).float().expand(count, -1, -1)
        self.right_T_left = torch.eye(4).repeat(count, 1, 1)
        self.right_T_left[:, 0, 3] = -torch.tensor(baselines)
        self.depth = torch.from_numpy(np.stack(depths))[:, None]
        parallax = camera.fx * torch.tensor(baselines)[:, None, None, None] / self.depth
        judged = (parallax > LEAST_PARALLAX) & (torch.arange(size[0]) - 2 * parallax > 0)
        mask = torch.from_numpy(np.stack(plain))[:, None]
        self.groups = {"plain": judged & mask, "textured": judged & ~mask}

    def photometric(self) -> Error:
        """Error of the right image warped with a depth."""
        return lambda depth: photometric_error(warp(self.right, depth, self.K, self.K, self.right_T_left), self.left)

    def feature_metric(self, checkpoint: str) -> Error:
        """The same of the finest features of a FeatureNet, at the image's size."""
        method = load_method(checkpoint)
        if not isinstance(method, FeatureNetAlone):
            raise SystemExit(f"error: {checkpoint} is of method {method.config.method.name}; expected one of feature_net")
        with torch.no_grad():
            (target, *_), (source, *_) = method.feature_net.eval().features([self.left, self.right])
        scale = target.std()  # so that errors of different features can be compared

        def error(depth: Tensor) -> Tensor:
            found = feature_metric_error(target / scale, source / scale, depth, self.K, self.K, self.right_T_left)
            return F.interpolate(found, size=depth.shape[-2:], mode="nearest")

        return error


def _image(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def landscape(pairs: Pairs, error: Error) -> dict[str, dict[str, Any]]:
    """Per group of pixels: mean error over FACTORS; how strong and how often right its slope is; what following it reaches."""
    with torch.no_grad():
        curve = torch.stack([error(pairs.depth * float(factor)) for factor in FACTORS])  # (factors, B, 1, H, W)
    reached = {start: follow(pairs.depth * start, error) for start in STARTS}
    result = {}
    for group, mask in pairs.groups.items():
        values = curve[:, mask]
        slope = np.gradient(values.numpy(), np.log(FACTORS), axis=0)
        wanted = np.sign(np.log(FACTORS))[:, None]  # a rising error beyond the truth, a falling one before it
        right = (slope * wanted > 0).mean(axis=1)
        off = np.array([float((torch.log(reached[s] / pairs.depth)[mask]).abs().median()) for s in STARTS])
        result[group] = {
            "pixels": int(mask.sum()),
            "error": np.round(values.mean(dim=1).numpy(), 5).tolist(),
            "slope": round(float(np.abs(slope).mean()), 5),
            "slope_towards_truth": np.round(right, 4).tolist(),
            "share_of_pixels_best_within_5_percent": round(
                float(np.mean(np.abs(np.log(FACTORS))[values.argmin(dim=0).numpy()] <= np.log(1.05))), 4
            ),
            "reached_abs_log_error": {str(s): round(float(o), 4) for s, o in zip(STARTS, off, strict=True)},
        }
    return result


def follow(start: Tensor, error: Error) -> Tensor:
    """Depth (B, 1, H, W) after STEPS of Adam on the log depth of each 2x2 block, as large as a feature is."""
    log_depth = start.log()[..., ::2, ::2].clone().requires_grad_(True)
    optimizer = torch.optim.Adam([log_depth], RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        error(_doubled(log_depth).exp()).sum().backward()
        optimizer.step()
    return _doubled(log_depth.detach()).exp()


def _doubled(values: Tensor) -> Tensor:
    return F.interpolate(values, scale_factor=2, mode="nearest")


def draw(results: dict[str, Any], file: Path) -> None:
    """The mean error over the factor, relative to its largest and smallest: rows are noises, columns are groups."""
    from matplotlib.figure import Figure

    mpl.use("Agg")
    groups = ("plain", "textured")
    figure = Figure(figsize=(9, 2.4 * len(NOISES)), layout="constrained")
    axes = figure.subplots(len(NOISES), len(groups), sharex=True, sharey=True, squeeze=False)
    for row, noise in zip(axes, NOISES, strict=True):
        for axis, group in zip(row, groups, strict=True):
            for name, result in results[str(noise)].items():
                error = np.array(result[group]["error"])
                axis.plot(FACTORS, (error - error.min()) / np.ptp(error), label=name)
            axis.axvline(1, color="grey", linewidth=0.8)
            axis.set_xscale("log", base=2)
            axis.set_title(f"{group}, noise {noise:g} grey levels", fontsize=9)
    axes[0][0].legend(fontsize=7)
    figure.supxlabel("depth / true depth")
    figure.supylabel("mean error, scaled to 0 .. 1")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NAME=FEATURE_NET.ckpt", help="checkpoints of method feature_net")
    parser.add_argument("--count", type=int, default=24, help="stereo pairs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=700, help="of the worlds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of landscape.json")
    parser.add_argument("--figure", type=Path, default=Path("docs/landscape.png"), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    nets = dict(net.split("=", 1) for net in options.nets)
    results: dict[str, Any] = {}
    for noise in NOISES:
        pairs = Pairs(noise, options.count, options.seed)
        errors = {"photometric": pairs.photometric(), **{name: pairs.feature_metric(path) for name, path in nets.items()}}
        results[str(noise)] = {name: landscape(pairs, error) for name, error in errors.items()}
        for name, groups in results[str(noise)].items():
            for group, r in groups.items():
                print(
                    f"noise {noise:g}  {name:24} {group:9} slope {r['slope']:.4f}  best within 5 %: "
                    f"{r['share_of_pixels_best_within_5_percent']:.3f}  reached from {r['reached_abs_log_error']}",
                    flush=True,
                )
    report = describe_run("landscape.py", arguments) | {"factors": np.round(FACTORS, 4).tolist(), "noises": results}
    write_report(report, options.out / "landscape.json")
    draw(results, options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
