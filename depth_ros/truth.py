"""Depth truth on disk, and how one prediction is judged against it: the demo and the training side use the same rules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depth_ros import metrics
from depth_ros.types import DepthPrediction, Float32Array, InputError

PROTOCOL = "KITTI: truth 1 mm to 80 m, Garg crop, prediction clamped to the same range, mean over images"
FIGURES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3", "ause_abs_rel", "aurg_abs_rel")


@dataclass(frozen=True)
class TruthFolder:
    """A folder of 16-bit single-channel PNGs named like the images; 0 is "no measurement". Raises InputError if it has none."""

    folder: Path
    scale: float  # PNG value of one metre (of one pixel, for disparity)
    # [px m] where the files hold disparity: depth = focal_baseline / disparity. This is for rectified pairs with one
    # principal point; Middlebury's doffs is not added, so its sets with doffs != 0 need depth files.
    focal_baseline: float | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir() or not any(self.folder.glob("*.png")):
            raise InputError(f"{self.folder}: no PNG files; expected a folder of 16-bit depth PNGs with the images' names")
        if not self.scale > 0:
            raise InputError(f"truth scale is {self.scale}; expected a positive number (PNG value of one metre, 256 for KITTI)")

    def depth(self, name: str) -> Float32Array | None:
        """Truth (H, W) [m] of the image called `name`, 0 where not measured; None if there is no such file. Raises InputError."""
        file = self.file(name)
        return self._read(file) if file.is_file() else None

    def file(self, name: str) -> Path:
        """Where the truth of the image called `name` would be."""
        return self.folder / f"{Path(name).stem}.png"

    def check_size(self, width: int, height: int) -> None:
        """Raise InputError if the first file is not width x height [px]."""
        file = min(self.folder.glob("*.png"))
        found = self._read(file).shape
        if found != (height, width):
            raise InputError(f"{file} is {found[1]}x{found[0]}; expected {width}x{height}, the camera's resolution")

    def _read(self, file: Path) -> Float32Array:
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint16 or image.ndim != 2:
            found = "no image" if image is None else f"{image.shape} {image.dtype}"
            raise InputError(f"{file}: {found}; expected a single-channel 16-bit PNG (value / {self.scale:g})")
        values: Float32Array = image.astype(np.float32) / np.float32(self.scale)
        if self.focal_baseline is None:
            return values
        return np.divide(np.float32(self.focal_baseline), values, where=values > 0, out=np.zeros_like(values))


def judge(prediction: DepthPrediction, truth: Float32Array) -> dict[str, float]:
    """Score one prediction against truth (H, W) [m] by PROTOCOL; empty where no pixel can be compared.

    Returns abs_rel, sq_rel, rmse, rmse_log, delta1..3 in raw metres, abs_rel_median_scaled, coverage_1sigma,
    coverage_2sigma, ause_abs_rel, aurg_abs_rel. Raises InputError if the sizes differ.
    """
    depth, sigma = prediction.depth, prediction.sigma
    if truth.shape != depth.shape:
        raise InputError(
            f"truth is {truth.shape[1]}x{truth.shape[0]}, the depth {depth.shape[1]}x{depth.shape[0]}; "
            "expected truth at the camera's resolution"
        )
    valid = metrics.valid_truth(truth) & metrics.garg_crop(*depth.shape) & ~np.isnan(depth)
    if not valid.any():
        return {}
    capped = np.minimum(depth, np.float32(metrics.CAP_M))  # where most of the image is +inf, the median is not
    scaled = depth * np.float32(metrics.median_scale(capped, truth, valid))
    figures = metrics.depth_errors(depth, truth, valid) | metrics.sparsification(depth, sigma, truth, valid)
    return {
        **{name: figures[name] for name in FIGURES},
        "abs_rel_median_scaled": metrics.depth_errors(scaled, truth, valid)["abs_rel"],
        "coverage_1sigma": metrics.coverage(depth, sigma, truth, valid, 1),
        "coverage_2sigma": metrics.coverage(depth, sigma, truth, valid, 2),
    }
