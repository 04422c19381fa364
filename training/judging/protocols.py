"""Evaluation protocols as named presets, and the alignments that a kind of depth allows.

Published numbers can be compared within one protocol only, so every table prints the whole of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from depth_ros import metrics
from depth_ros.estimator import upsample
from depth_ros.types import BoolArray, CameraModel, DepthPrediction, Float32Array, Float64Array, InputError

# Alignments, from the least to the most that they take from the truth.
SCALINGS = {
    "none": "raw metres",
    "sequence": "one factor per set: the median over its images of median(truth) / median(depth)",
    "median": "per image by median(truth) / median(depth)",
    "scale_shift": "scale and shift per image, least squares in inverse depth",
}
# The kinds of depth (depth_ros.bundle.KINDS) and what they may be aligned with: raw metres are for metric depth alone.
ALLOWED = {
    "metric": ("none", "sequence", "median", "scale_shift"),
    "scale_invariant": ("median", "sequence", "scale_shift"),
    "affine_invariant": ("scale_shift",),
}
NYU_CROP = (45 / 480, 471 / 480, 41 / 640, 601 / 640)  # rows, columns


@dataclass(frozen=True)
class Prediction:
    """One prediction as it is judged, at the truth's size. What affine-invariant depth holds is 1 / relative inverse depth."""

    depth: Float32Array  # (H, W) [m] or up to its kind; NaN: none, +inf: nothing in range (affine-invariant: also negative)
    sigma: Float32Array | None = None  # (H, W) like depth; none: no uncertainty


@dataclass(frozen=True)
class Protocol:
    """Which pixels count, what is done to the prediction before it is compared, and where that is from."""

    name: str
    source: str
    crop: str = "none"  # of CROPS; Make3D's and DIML's images are cropped by their loaders
    min_m: float = 0.0  # truth counts strictly between min_m and cap_m
    cap_m: float = math.inf
    clamp_min_m: float = 1e-3  # predictions are clamped to [clamp_min_m, clamp_max_m]
    clamp_max_m: float = 80.0
    scaling: str = "median"  # of SCALINGS
    flip: bool = False  # post-processing: mean of the prediction and that of the mirrored image (Monodepth's "pp")
    disparity_first: bool = True  # predictions are resized as inverse depth, else as depth

    def capped(self, metres: float) -> Protocol:
        """The protocol for truth below `metres` alone, with predictions clamped there: an aligned inverse depth may reach 0."""
        return replace(self, name=f"{self.name} to {metres:g} m", cap_m=metres, clamp_max_m=metres)

    def in_range(self, truth: Float32Array) -> BoolArray:
        """Where truth (H, W) [m] is a measurement that counts, inside the crop or not."""
        return metrics.valid_truth(truth, self.cap_m, self.min_m)

    def mask(self, truth: Float32Array) -> BoolArray:
        """Where truth (H, W) [m] counts."""
        return self.in_range(truth) & CROPS[self.crop](*truth.shape)

    def scaling_for(self, kind: str) -> str:
        """The protocol's scaling where `kind` allows it, else the least that it does allow."""
        return self.scaling if self.scaling in ALLOWED[kind] else ALLOWED[kind][0]

    def describe(self) -> str:
        """Everything that decides a number, in one line."""
        upper = f"below {self.cap_m:g} m" if math.isfinite(self.cap_m) else "of any size"
        parts = [
            f"truth above {self.min_m:g} and {upper}",
            "no crop" if self.crop == "none" else f"{self.crop} crop",
            f"prediction clamped to [{self.clamp_min_m:g}, {self.clamp_max_m:g}] m",
            f"resized as {'inverse depth' if self.disparity_first else 'depth'}",
            f"{'with' if self.flip else 'no'} flip post-processing",
            "mean over images",
        ]
        return f"protocol {self.name}: {', '.join(parts)}"


def nyu_crop(height: int, width: int) -> BoolArray:
    """Rows 45-470 and columns 41-600 of a 640x480 image, and their like at other sizes."""
    top, bottom, left, right = np.round(np.array(NYU_CROP) * [height, height, width, width]).astype(int)
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


CROPS = {"none": lambda height, width: np.ones((height, width), np.bool_), "garg": metrics.garg_crop, "nyu": nyu_crop}

PROTOCOLS: Mapping[str, Protocol] = {
    preset.name: preset
    for preset in (
        Protocol(
            "eigen",
            "Eigen et al., NIPS 2014, as Monodepth2's released code judges: 697 images, raw lidar; for stereo --scaling none",
            crop="garg",
            min_m=1e-3,
            cap_m=80.0,
        ),
        Protocol(
            "eigen_benchmark",
            "Uhrig et al., 3DV 2017: 652 images, accumulated lidar; no crop, no cap on the truth. Poggi et al., CVPR 2020, too",
        ),
        Protocol(
            "kitti2015",
            "KITTI Stereo 2015 (Menze and Geiger, CVPR 2015) in raw metres with Eigen's range and crop: this project's choice",
            crop="garg",
            min_m=1e-3,
            cap_m=80.0,
            scaling="none",
        ),
        Protocol(
            "make3d",
            "Monodepth2's authors' zero-shot protocol: C1 (truth below 70 m), centre crop 2:1, 21x305 grid; log10 is rms_log10",
            cap_m=70.0,
            clamp_max_m=70.0,
        ),
        Protocol(
            "diml",
            "no published protocol was found: ours, 10 m as indoors (outdoors: --cap 80); not comparable with papers",
            cap_m=10.0,
            clamp_max_m=10.0,
        ),
        Protocol(
            "nyu",
            "Eigen et al., NIPS 2014: 654 images, valid crop of 640x480, 10 m",
            crop="nyu",
            min_m=1e-3,
            cap_m=10.0,
            clamp_max_m=10.0,
        ),
        Protocol(
            "midas",
            "Ranftl et al., TPAMI 2022, with KITTI's cap (NYU: --cap 10, ETH3D: --cap 72); its percentage: 100 (1 - delta1); "
            "not comparable with median-scaled numbers",
            cap_m=80.0,
            scaling="scale_shift",
        ),
    )
}


def resized(prediction: Prediction, shape: tuple[int, ...], disparity_first: bool) -> Prediction:
    """The prediction of the same view at another size (H, W): bilinear in inverse depth, or in depth; sigma bilinear.

    NaN and +inf stay where their nearest pixel is (depth_ros.estimator.upsample).
    """
    if prediction.depth.shape == tuple(shape):
        return prediction
    depth, sigma = prediction.depth if disparity_first else _reciprocal(prediction.depth), prediction.sigma
    given = DepthPrediction(depth, np.zeros_like(depth) if sigma is None else sigma, _camera(depth.shape))
    result = upsample(given, _camera(shape))
    depth = result.depth if disparity_first else _reciprocal(result.depth)
    return Prediction(depth, None if sigma is None else result.sigma)


def _reciprocal(depth: Float32Array) -> Float32Array:
    """1 / depth where it is finite, and itself (NaN, +inf) where it is not."""
    inverted: Float32Array = np.divide(np.float32(1), depth, where=np.isfinite(depth), out=depth.copy())
    return inverted


def _camera(shape: tuple[int, ...]) -> CameraModel:
    """A camera of which only the size counts."""
    return CameraModel(shape[1], shape[0], shape[1], shape[0], 0.0, 0.0)


def align(prediction: Prediction, truth: Float32Array, valid: BoolArray, scaling: str, factor: float = 1.0) -> Prediction:
    """The prediction in metres, aligned with truth (H, W) [m] at the valid pixels; `factor` is the sequence's.

    Raises InputError if scaling is unknown or no pixel is valid.
    """
    if scaling == "none":
        return prediction
    if scaling == "sequence":
        return scaled(prediction, factor)
    if scaling == "median":
        return scaled(prediction, median_ratio(prediction.depth, truth, valid))
    if scaling == "scale_shift":
        scale, shift = scale_and_shift(prediction.depth, truth, valid)
        return affine_aligned(prediction, scale, shift)
    raise InputError(f"scaling is '{scaling}'; expected one of {', '.join(SCALINGS)}")


def median_ratio(depth: Float32Array, truth: Float32Array, valid: BoolArray) -> float:
    """median(truth) / median(depth) over the valid pixels, 1 where the median depth is +inf (nothing to scale).

    Raises InputError if it is not positive, since then no factor will do.
    """
    ratio = metrics.median_scale(depth, truth, valid)
    if not 0 <= ratio < math.inf:
        raise InputError(f"the median depth is {np.median(depth[valid]):g}; expected positive depth: is its kind right?")
    return ratio or 1.0


def scaled(prediction: Prediction, factor: float) -> Prediction:
    """Depth and sigma times factor."""
    f = np.float32(factor)
    return Prediction(prediction.depth * f, None if prediction.sigma is None else prediction.sigma * f)


def scale_and_shift(depth: Float32Array, truth: Float32Array, valid: BoolArray) -> tuple[float, float]:
    """s, t of the least squares fit s / depth + t = 1 / truth (Ranftl et al., eq. 4); s = 0 where 1 / depth is constant."""
    return least_squares(inverse(depth)[valid], 1 / truth[valid].astype(np.float64))


def least_squares(x: Float64Array, y: Float64Array, weight: Float64Array | None = None) -> tuple[float, float]:
    """s, t that bring s x + t nearest to y, all (N,) and weighted alike if no weight is given; s = 0 where x is constant."""
    x_mean, y_mean = (float(np.average(values, weights=weight)) for values in (x, y))
    variance = float(np.average((x - x_mean) ** 2, weights=weight))
    scale = float(np.average((x - x_mean) * (y - y_mean), weights=weight)) / variance if variance > 0 else 0.0
    return scale, y_mean - scale * x_mean


def affine_aligned(prediction: Prediction, scale: float, shift: float) -> Prediction:
    """Depth 1 / (scale / depth + shift), +inf where that is not positive; sigma by first-order propagation.

    A scale of 0 leaves nothing of the prediction, so also no sigma.
    """
    x = inverse(prediction.depth)
    aligned = scale * x + shift
    with np.errstate(divide="ignore"):
        depth = np.where(aligned > 0, 1 / aligned, np.where(np.isnan(aligned), np.nan, np.inf)).astype(np.float32)
    if prediction.sigma is None or scale == 0:
        return Prediction(depth)
    with np.errstate(invalid="ignore", over="ignore"):
        sigma = abs(scale) * prediction.sigma * x**2 * depth.astype(np.float64) ** 2
    return Prediction(depth, np.where(np.isfinite(depth), sigma, np.nan).astype(np.float32))


def inverse(depth: Float32Array) -> Float64Array:
    """1 / depth, 0 where depth is +inf, NaN where it is NaN or 0."""
    values = np.asarray(depth, np.float64)
    return np.divide(1.0, values, where=values != 0, out=np.full(values.shape, np.nan))
