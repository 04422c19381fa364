"""The figures of one demo run, computed from what was PUBLISHED: the recording, read back.

Accuracy follows the KITTI protocol, like `training.evaluate`: truth within 1e-3 to 80 m, the Garg crop, predictions
clamped to the same range, every figure the mean over the images that have truth.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depth_ros import metrics
from depth_ros.tools.recording import Answer, answers
from depth_ros.types import Float32Array, InputError

CAP_M = 80.0


@dataclass(frozen=True)
class Truth:
    """A folder of 16-bit single-channel depth PNGs named like the images; 0 is "no measurement"."""

    folder: Path
    scale: float  # PNG value of one metre

    def __post_init__(self) -> None:
        if not self.folder.is_dir() or not any(self.folder.glob("*.png")):
            raise InputError(f"{self.folder}: no PNG files; expected a folder of 16-bit depth PNGs with the images' names")
        if not self.scale > 0:
            raise InputError(f"truth scale is {self.scale}; expected a positive number (PNG value of one metre, 256 for KITTI)")

    def depth(self, name: str) -> Float32Array | None:
        """Return the (H, W) truth [m] of the image called `name`, 0 where not measured, or None if there is no such file."""
        file = self.folder / f"{Path(name).stem}.png"
        if not file.is_file():
            return None
        return self._read(file)

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
            raise InputError(f"{file}: {found}; expected a single-channel 16-bit PNG (metres x {self.scale:g})")
        depth: Float32Array = image.astype(np.float32) / np.float32(self.scale)
        return depth


def summarise(recording: Path, index: Path, truth: Truth | None = None) -> dict[str, Any]:
    """Return the figures of a run as JSON-able values; `index` is the player's CSV (stamp_ns, name) of published images.

    Raises InputError if a truth file cannot be used.
    """
    names = _read_index(index)
    receipts_ns, latencies_ms, valid_fractions = [], [], []
    scores: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers(recording):
        receipts_ns.append(answer.receipt_ns)
        latencies_ms.append(answer.latency_ms)
        valid_fractions.append(float(np.isfinite(answer.depth).mean()))
        true_depth = truth.depth(names[answer.stamp_ns]) if truth else None
        if true_depth is not None:
            for key, value in accuracy(answer, true_depth).items():
                scores[key].append(value)
    frames_out = len(receipts_ns)
    summary: dict[str, Any] = {
        "frames_in": len(names),
        "frames_out": frames_out,
        "frames_dropped": len(names) - frames_out,
        "rate_hz": _rate_hz(receipts_ns),
        "latency_ms": _latency(latencies_ms),
        "valid_fraction": float(np.mean(valid_fractions)) if valid_fractions else None,
    }
    if truth:
        summary |= {"frames_with_truth": len(scores["abs_rel"]), "truth_crop": "garg", "truth_cap_m": CAP_M}
        summary |= {key: float(np.mean(values)) for key, values in scores.items() if values}
    return summary


def accuracy(answer: Answer, truth: Float32Array) -> dict[str, float]:
    """Score one answer against truth (H, W) [m]; nothing where no pixel can be compared.

    Raises InputError if their sizes differ.
    """
    depth, sigma = answer.depth, answer.sigma
    if truth.shape != depth.shape:
        raise InputError(
            f"truth is {truth.shape[1]}x{truth.shape[0]}, the published depth {depth.shape[1]}x{depth.shape[0]}; "
            "expected truth at the camera's resolution"
        )
    valid = metrics.valid_truth(truth, CAP_M) & metrics.garg_crop(*depth.shape) & ~np.isnan(depth)
    if not valid.any():
        return {}
    errors = metrics.depth_errors(depth, truth, valid, CAP_M)
    scaled = metrics.depth_errors(depth * np.float32(metrics.median_scale(depth, truth, valid)), truth, valid, CAP_M)
    return {
        "abs_rel": errors["abs_rel"],
        "abs_rel_median_scaled": scaled["abs_rel"],
        "delta1": errors["delta1"],
        "coverage_1sigma": metrics.coverage(depth, sigma, truth, valid, 1),
        "coverage_2sigma": metrics.coverage(depth, sigma, truth, valid, 2),
        **metrics.sparsification(depth, sigma, truth, valid),
    }


def _read_index(file: Path) -> dict[int, str]:
    if not file.is_file():  # ended before the first image
        return {}
    with file.open(newline="", encoding="utf-8") as stream:
        return {int(stamp_ns): name for stamp_ns, name in csv.reader(stream)}


def _rate_hz(receipts_ns: list[int]) -> float | None:
    if len(receipts_ns) < 2:
        return None
    return (len(receipts_ns) - 1) / ((max(receipts_ns) - min(receipts_ns)) * 1e-9)


def _latency(latencies_ms: list[float]) -> dict[str, float] | None:
    if not latencies_ms:
        return None
    p50, p95 = np.percentile(latencies_ms, (50, 95))
    return {"p50": float(p50), "p95": float(p95), "max": max(latencies_ms)}
