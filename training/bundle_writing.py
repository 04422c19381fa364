"""How a bundle is written: as a draft, compared with what it was made of before it takes its place."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from depth_ros.bundle import ModelBundle
from depth_ros.types import Float32Array, UInt8Array

STATED = (  # of the scores, in bundle.yaml
    "images", "abs_rel", "abs_rel_median_scaled", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3",
    "coverage_1sigma", "coverage_2sigma", "nll", "ause_abs_rel", "aurg_abs_rel",
)  # fmt: skip
PARITY = 1e-3  # largest relative difference in depth and sigma between a graph and what it was made of
# Smaller shares of the depth count as this: a sigma that is the difference of two depths has their rounding errors.
LEAST_COMPARED = 0.01


class ExportError(Exception):
    """An export that would not be what was trained; the text says what differs."""


@contextmanager
def draft_of(folder: Path) -> Iterator[Path]:
    """A new folder whose model.onnx and bundle.yaml take the place of those in `folder` at the end, if nothing was raised."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}_", dir=folder.parent) as temporary:
        draft = Path(temporary)
        yield draft
        folder.mkdir(exist_ok=True)
        for name in ("model.onnx", "bundle.yaml"):  # between the two, the old bundle.yaml refuses the new graph by its checksum
            (draft / name).replace(folder / name)
        (folder / "model.int8.onnx").unlink(missing_ok=True)  # made of the graph that lay here before


def probe_images(bundle: ModelBundle) -> UInt8Array:
    """Noise and a ramp (2, h, w, 3) of the bundle's size."""
    shape = (bundle.height, bundle.width, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, bundle.height, dtype=np.uint8)[:, None, None], shape)
    return np.stack([noise, ramp])


def difference(
    graph: tuple[Float32Array, Float32Array], reference: tuple[Float32Array, Float32Array], calibration: float = 1.0
) -> float:
    """Largest relative difference in depth or sigma (N, h, w) [m] of a graph's answer from a reference; NaN if one is not finite.

    A sigma is compared with its own size, or with LEAST_COMPARED of the depth, times its `calibration`, where it is smaller: that
    factor enlarges the rounding errors as it does sigma.
    """
    (depth, sigma), (true_depth, true_sigma) = graph, reference
    size = np.maximum(np.abs(true_sigma), calibration * LEAST_COMPARED * np.abs(true_depth))
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.abs(depth - true_depth) / np.abs(true_depth), np.abs(sigma - true_sigma) / size
    return float(np.max(shares))  # max() would pass over a NaN


def stated(scores: Mapping[str, float]) -> dict[str, float]:
    """Those scores that bundle.yaml states, rounded."""
    return {key: round(scores[key], 4) for key in STATED if key in scores}


def commit() -> str:
    """Commit of this code, "unknown" outside a repository or without git."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"
