"""What the errors that train depth look like on surfaces without texture, with no depth network in between.

    python benchmarks/landscape.py NAME=CHECKPOINT... [--out benchmarks/results] [--figure docs/landscape.png]

Stereo pairs of procedural worlds with plain walls, floors and grounds, rendered with several strengths of sensor noise. The true
depth of every pixel is multiplied by one factor after the other: the photometric error and the feature-metric error of
each FeatureNet over that factor are its landscape. Its slope towards the truth is what a network could learn from; what is
reached by following it from a wrong depth, block by block of 2x2 pixels, is the depth that the error alone knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.feature_nets import SIZE, as_tensor, command_line, open_feature_net, world
from benchmarks.named import open_named
from benchmarks.report import describe_run, write_report
from training.config import ConfigError
from training.data.street import kitti_camera
from training.data.street.samples import BASELINE_M
from training.feature_losses import feature_metric_error
from training.geometry import warp
from training.losses import photometric_error
from training.networks.feature_net import FeatureNet

NOISES = (0.0, 2.0, 5.0)  # [grey levels]
LEAST_PARALLAX = 2.0  # [px]: a pixel with less says nothing at this size
FACTORS = np.exp(np.linspace(-np.log(2), np.log(2), 41))  # times the true depth
STARTS = (0.7, 1.4)  # factors
STEPS, RATE = 150, 0.02  # of Adam on log depth

Error = Callable[[Tensor], Tensor]  # depth (B, 1, H, W) [m] -> error (B, 1, H, W)


@dataclass(frozen=True)
class Pairs:
    """Rendered stereo pairs with true depth."""

    left: Tensor  # (B, 3, H, W) RGB in [0, 1]
    right: Tensor
    depth: Tensor  # (B, 1, H, W) [m]
    K: Tensor  # (B, 3, 3) of both cameras [px]
    right_T_left: Tensor  # (B, 4, 4) [m]
    groups: Mapping[str, Tensor]  # plain, textured -> (B, 1, H, W) bool: the pixels near enough and seen by both cameras


def render_pairs(noise: float, count: int, seed: int) -> Pairs:
    """`count` pairs with sensor noise of standard deviation `noise` [grey levels]."""
    camera = kitti_camera(*SIZE)
    lefts, rights, depths, plain, baselines = [], [], [], [], []
    for index in range(count):
        street = world(index, seed, noise)
        aside = np.eye(4)
        aside[0, 3] = baseline = BASELINE_M[street.config.scene]
        left, right = (street.render(camera, pose, 1.0) for pose in (street.pose(1.0), street.pose(1.0) @ aside))
        lefts.append(as_tensor(left.image))
        rights.append(as_tensor(right.image))
        depths.append(np.minimum(left.depth, 1e3))
        plain.append(left.plain)
        baselines.append(baseline)
    depth, is_plain = (torch.from_numpy(np.stack(maps))[:, None] for maps in (depths, plain))
    parallax = camera.fx * torch.tensor(baselines)[:, None, None, None] / depth
    judged = (parallax > LEAST_PARALLAX) & (torch.arange(SIZE[0]) - 2 * parallax > 0)
    right_T_left = torch.eye(4).repeat(count, 1, 1)
    right_T_left[:, 0, 3] = -torch.tensor(baselines)
    K = torch.from_numpy(camera.K).float().expand(count, -1, -1)
    groups = {"plain": judged & is_plain, "textured": judged & ~is_plain}
    return Pairs(torch.stack(lefts), torch.stack(rights), depth, K, right_T_left, groups)


def photometric(pairs: Pairs) -> Error:
    """Error of the right images warped with a depth."""
    return lambda depth: photometric_error(warp(pairs.right, depth, pairs.K, pairs.K, pairs.right_T_left), pairs.left)


def feature_metric(pairs: Pairs, net: FeatureNet) -> Error:
    """The same of the net's finest features, at the images' size."""
    with torch.no_grad():
        (target, *_), (source, *_) = net.features([pairs.left, pairs.right])
    scale = target.std()  # so that errors of different features can be compared

    def error(depth: Tensor) -> Tensor:
        found = feature_metric_error(target / scale, source / scale, depth, pairs.K, pairs.K, pairs.right_T_left)
        return F.interpolate(found, size=depth.shape[-2:], mode="nearest")

    return error


def landscape(pairs: Pairs, error: Error) -> dict[str, dict[str, Any]]:
    """Per group of pixels: mean error over FACTORS; how strong and how often right its slope is; what following it reaches."""
    with torch.no_grad():
        curve = torch.stack([error(pairs.depth * float(factor)) for factor in FACTORS])  # (factors, B, 1, H, W)
    reached = {start: follow(pairs.depth * start, error) for start in STARTS}
    log_factors, result = np.log(FACTORS), {}
    for group, mask in pairs.groups.items():
        values = curve[:, mask]  # (factors, pixels)
        slope = np.gradient(values.numpy(), log_factors, axis=0)
        towards = slope * np.sign(log_factors)[:, None] > 0  # a rising error beyond the truth, a falling one before it
        best = np.abs(log_factors)[values.argmin(dim=0).numpy()]
        off = {start: (depth / pairs.depth)[mask].log().abs().median() for start, depth in reached.items()}
        result[group] = {
            "pixels": int(mask.sum()),
            "error": np.round(values.mean(dim=1).numpy(), 5).tolist(),
            "slope": round(float(np.abs(slope).mean()), 5),
            "slope_towards_truth": np.round(towards.mean(axis=1), 4).tolist(),
            "share_of_pixels_best_within_5_percent": round(float(np.mean(best <= np.log(1.05))), 4),
            "reached_abs_log_error": {str(start): round(float(value), 4) for start, value in off.items()},
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
    options = command_line(__doc__, "landscape").parse_args(arguments)
    torch.set_num_threads(1)
    try:
        nets = open_named(options.nets, open_feature_net)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results: dict[str, Any] = {}
    for noise in NOISES:
        pairs = render_pairs(noise, options.count, options.seed)
        errors = {"photometric": photometric(pairs), **{name: feature_metric(pairs, net) for name, net in nets.items()}}
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
