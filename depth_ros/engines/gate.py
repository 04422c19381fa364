"""The numeric gate: an engine is compared with ONNX Runtime on the CPU, on images, before its depth is trusted.

Builders of fast engines are known to give wrong numbers without an error: half precision that overflows, fused operations
that a version gets wrong, outputs or images of a batch that are swapped. `check` finds these where they matter, in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from depth_ros.bundle import PRECISIONS, ModelBundle
from depth_ros.engines import Engine, EngineError, EngineOptions, load_engine, one_line
from depth_ros.images import resize_image
from depth_ros.types import BoolArray, Float32Array, InputError, UInt8Array

# Three streets (one in rain, one at dusk) and a room, rendered by training.data.street: anyone's to copy, unlike camera data.
FRAMES = Path(__file__).parent / "frames"
SUFFIXES = (".jpg", ".jpeg", ".png")
MOST_FRAMES = 8

# For bundles that state none. fp16 and bf16: three to seven times what was measured, so that a wrong engine is found and a right
# one is not refused (benchmarks/results/gate.json). fp32: far above rounding, since there is nothing to fall back on. int8: what
# may be lost, in the median a quarter of the shipped model's own sigma; graphs of training.quantise kept to it, graphs with every
# layer in int8 did not.
DEFAULT_LIMITS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"depth_median": 0.001, "depth_p99": 0.01, "sigma_median": 0.001, "sigma_p99": 0.01},
    "fp16": {"depth_median": 0.003, "depth_p99": 0.02, "sigma_median": 0.01, "sigma_p99": 0.05},
    "bf16": {"depth_median": 0.03, "depth_p99": 0.15, "sigma_median": 0.05, "sigma_p99": 0.25},
    "int8": {"depth_median": 0.05, "depth_p99": 0.3, "sigma_median": 0.1, "sigma_p99": 0.4},
}

Answer = tuple[Float32Array, Float32Array]  # depth and sigma, each (N, h, w) [m]


@dataclass(frozen=True)
class GateReport:
    """How far an engine is from its model's graph, and how far it may be.

    `figures` and `limits` have the same keys: depth_median, depth_p99, sigma_median, sigma_p99 (difference / reference),
    batch_depth_p99, batch_sigma_p99 (images together against one by one), not_finite (pixels that are NaN or infinite in the
    engine or in the reference, not in both) and not_repeated (pixels that differ when the same image comes again).
    """

    precision: str
    frames: int
    figures: Mapping[str, float]
    limits: Mapping[str, float]
    errors: tuple[str, ...] = ()  # why there are no figures: the engine did not run, or broke its contract

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, worded like "depth p99 0.081 > 0.02"; empty for an engine that may be used."""
        exceeded = (name for name, value in self.figures.items() if not value <= self.limits[name])
        return (*self.errors, *(f"{_words(name)} {self.figures[name]:.3g} > {self.limits[name]:g}" for name in exceeded))

    @property
    def passed(self) -> bool:
        """Whether every figure is within its limit."""
        return not self.failures

    def describe(self) -> str:
        """One line for logs."""
        images = f"{self.frames} image{'s' if self.frames > 1 else ''}"
        if not self.passed:
            return f"{self.precision} differs from ONNX Runtime on {images}: {'; '.join(self.failures)}"
        depth, sigma = ([f"{self.figures[f'{name}_{part}']:.2g}" for part in ("median", "p99")] for name in ("depth", "sigma"))
        return (
            f"{self.precision} agrees with ONNX Runtime on {images}: relative difference of depth {depth[0]} (median), "
            f"{depth[1]} (p99), of sigma {sigma[0]}, {sigma[1]}"
        )

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file; a figure that is not finite is None."""
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {
            "passed": self.passed,
            "precision": self.precision,
            "frames": self.frames,
            "figures": figures,
            "limits": dict(self.limits),
            "failures": list(self.failures),
        }


def check(engine: Engine, bundle: ModelBundle, frames: UInt8Array, precision: str = "fp32") -> GateReport:
    """Compare `engine` with ONNX Runtime on the CPU on RGB images `frames` (N, height, width, 3) of the bundle's size.

    Whatever is wrong with the engine is reported, not raised. Several images are needed to find a batch out of order.
    Raises EngineError if the reference cannot be run or the precision is unknown, InputError if the images are unfit.
    """
    limits = limits_of(bundle, precision)
    size = (bundle.height, bundle.width, 3)
    if frames.ndim != 4 or frames.shape[1:] != size or not len(frames) or frames.dtype != np.uint8:
        raise InputError(f"frames are {frames.shape} {frames.dtype}; expected (N, {', '.join(map(str, size))}) uint8, N > 0")
    with closing(load_engine(bundle, "onnxruntime", EngineOptions())) as reference:
        expected = one_by_one(reference, frames)
    if not in_range(expected, bundle).any():
        raise InputError(f"model '{bundle.name}' sees nothing in its range on the {len(frames)} frames: give others")
    try:
        alone, again = one_by_one(engine, frames), one_by_one(engine, frames)
        together = _checked(engine.infer(frames), frames)
    except Exception as error:  # each backend raises classes of its own; the reader of the report gets them all
        return GateReport(precision, len(frames), {}, limits, (reason(error),))
    figures = compare(alone, expected, bundle)
    figures |= {f"batch_{name}": value for name, value in compare(together, alone, bundle).items() if name.endswith("p99")}
    figures["not_finite"] = float(np.count_nonzero(finite(alone) != finite(expected)))
    figures["not_repeated"] = float(np.count_nonzero(bits_differ(again, alone)))
    return GateReport(precision, len(frames), figures, limits)


def limits_of(bundle: ModelBundle, precision: str) -> dict[str, float]:
    """The largest figures that an engine of this precision may have: the bundle's, else DEFAULT_LIMITS. Raises EngineError."""
    if precision not in PRECISIONS:
        raise EngineError(f"precision '{precision}' is unknown; expected one of {', '.join(PRECISIONS)}")
    limits = {**DEFAULT_LIMITS[precision], **bundle.limits.get(precision, {})}
    batch = {f"batch_{name}": limits[name] for name in ("depth_p99", "sigma_p99")}
    return {**limits, **batch, "not_finite": 0.0, "not_repeated": 0.0}


def frames_folder(bundle: ModelBundle) -> Path:
    """The bundle's own images for this check, in its folder `frames`, or else FRAMES."""
    own = bundle.path / "frames"
    return own if own.is_dir() else FRAMES


def load_frames(bundle: ModelBundle, folder: Path | None = None, size: tuple[int, int] | None = None) -> UInt8Array:
    """Images (N, height, width, 3) RGB, at most MOST_FRAMES, evenly spread over those in `folder`, resized.

    Without a folder: frames_folder(). Without a size (width, height): the bundle's. Raises InputError naming the folder or image.
    """
    folder, size = folder or frames_folder(bundle), size or (bundle.width, bundle.height)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one with images ({', '.join(SUFFIXES)})")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no images; expected some ({', '.join(SUFFIXES)})")
    chosen = np.unique(np.linspace(0, len(files) - 1, MOST_FRAMES).round().astype(int))
    return np.stack([resize_image(_read(files[index]), *size) for index in chosen])


def _read(file: Path) -> UInt8Array:
    image: UInt8Array | None = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise InputError(f"{file}: cannot be read as an image; replace or remove it")
    rgb: UInt8Array = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # Ubuntu's OpenCV has no IMREAD_COLOR_RGB
    return rgb


def one_by_one(engine: Engine, frames: UInt8Array) -> Answer:
    """Depth and sigma of each frame on its own; put together only at the end, so that answers overwritten later show."""
    answers = [_checked(engine.infer(frames[i : i + 1]), frames[i : i + 1]) for i in range(len(frames))]
    return np.concatenate([depth for depth, _ in answers]), np.concatenate([sigma for _, sigma in answers])


def _checked(answer: Answer, frames: UInt8Array) -> Answer:
    for name, array in zip(("depth", "sigma"), answer, strict=True):
        if array.shape != frames.shape[:3] or array.dtype != np.float32:
            raise EngineError(f"{name} is {array.shape} {array.dtype}; expected {frames.shape[:3]} float32")
    return answer


def compare(found: Answer, expected: Answer, bundle: ModelBundle) -> dict[str, float]:
    """Median and 99th percentile of |found - expected| / expected, of depth and of sigma.

    Over the pixels that are finite in both and in the bundle's range in one: beyond it the robot publishes the same +inf for
    any depth, so depth is limited to the range first. Sigma: where both would be published.
    """
    both, (depth, sigma) = finite(found) & finite(expected), expected
    inside = both & (in_range(found, bundle) | in_range(expected, bundle))
    stated = both & in_range(found, bundle) & in_range(expected, bundle) & (sigma > 0)
    clipped, reference = (np.clip(values[inside], bundle.min_depth, bundle.max_depth) for values in (found[0], depth))
    differences = {
        "depth": np.abs(clipped - reference) / reference,
        "sigma": np.abs(found[1][stated] - sigma[stated]) / sigma[stated],
    }
    quantiles = {"median": 0.5, "p99": 0.99}
    return {f"{name}_{part}": quantile(values, q) for name, values in differences.items() for part, q in quantiles.items()}


def quantile(values: Float32Array, q: float) -> float:
    """Infinite where there is nothing left to compare."""
    return float(np.quantile(values, q)) if values.size else math.inf


def reason(error: Exception) -> str:
    """An engine's error in one line; our own errors say enough without their class."""
    text = one_line(error)
    return text if isinstance(error, EngineError) else f"{type(error).__name__}: {text}"


def finite(answer: Answer) -> BoolArray:
    """Where both depth and sigma are numbers."""
    numbers: BoolArray = np.isfinite(answer[0]) & np.isfinite(answer[1])
    return numbers


def in_range(answer: Answer, bundle: ModelBundle) -> BoolArray:
    """Where the robot would publish a depth (see depth_ros.estimator), sigma apart."""
    inside: BoolArray = (answer[0] >= bundle.min_depth) & (answer[0] < bundle.max_depth)  # false for NaN
    return inside


def bits_differ(first: Answer, second: Answer) -> BoolArray:
    """Compare bits, since NaN differs from itself."""
    bits = [np.stack(answer).view(np.uint32) for answer in (first, second)]
    differ: BoolArray = (bits[0] != bits[1]).any(axis=0)
    return differ


def _words(name: str) -> str:
    return name.replace("_", " ")
