"""Where metres come from: the scale of a prediction, how sure it is, and which source suits which kind of bundle.

A file per source: ground (the camera's height), ranging (a range sensor), odometry (a driven distance). Each turns what it
sees in one frame into a Measurement or raises NoMeasurement; a Track (track.py) smooths them over time. NumPy and OpenCV only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from depth_ros.types import DepthPrediction, Frame

RELATIVE = "relative"  # the source that has no metres: inverse depth is published in the bundle's own unit, as such
SOURCES = ("bundle", "fixed", "camera_height", "range", "odometry", RELATIVE)
SUITABLE = {  # kind of bundle -> the sources that fit it; a metric one has metres, so that none may be thrown away
    "metric": ("bundle", "fixed", "camera_height", "range", "odometry"),
    "scale_invariant": ("fixed", "camera_height", "range", "odometry", RELATIVE),
    "affine_invariant": ("range", RELATIVE),  # the others see one unknown, and this kind has two
}
LEAST_INVERSE = 1e-6  # [1/m] inverse depth at and below which nothing is in range


class NoMeasurement(Exception):  # noqa: N818 (no error: the frame before it may have had one)
    """A frame that says nothing on scale; the text says why, and what to do if that stays so."""


class Unchanged(NoMeasurement):
    """The camera sees what it saw at the measurement before, so that one still holds."""


@dataclass(frozen=True)
class Scale:
    """Makes metres of a prediction: 1 / depth [1/m] = 1 / (factor x predicted depth) + shift.

    The errors of factor and shift hang together (a fit far from the horizon trades one for the other): correlation is that of
    the factor's relative error with the shift's.
    """

    factor: float = 1.0
    sigma: float = 0.0  # one standard deviation of factor, relative
    shift: float = 0.0  # [1/m] of inverse depth; other than 0 for affine-invariant depth only
    shift_sigma: float = 0.0  # [1/m]
    correlation: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """What one frame says on scale."""

    scale: Scale
    inliers: int  # samples that agree
    samples: int  # that were compared
    inverse: float = 0.0  # [1/m] typical inverse depth of the samples; needed with a shift only


class Scaler(Protocol):
    """Gives the scale of the frames of one camera; called from one thread, with stamps in order."""

    @property
    def constant(self) -> Scale | None:
        """The scale, if it is the same for every frame; None if each frame must be asked for."""

    def scale_for(self, frame: Frame, prediction: DepthPrediction) -> Scale:
        """Return the scale of a prediction, given with its frame at its resolution. Raises InputError where there is none."""


class ConstantScale:
    """The bundle's own scale, or a given one."""

    def __init__(self, scale: Scale | None = None) -> None:
        self.constant = Scale() if scale is None else scale

    def scale_for(self, frame: Frame, prediction: DepthPrediction) -> Scale:
        """See Scaler."""
        return self.constant


def check_source(source: str, kind: str) -> str | None:
    """Return why a source (of SOURCES) does not suit this kind of bundle (of bundle.KINDS), None if it does."""
    if source in SUITABLE[kind]:
        return None
    return f"kind is '{kind}', which scale.source '{source}' does not suit: set scale.source to {choices(kind)}"


def choices(kind: str) -> str:
    """Name the sources that suit a kind of bundle."""
    return " or ".join(f"{source} (no metres)" if source == RELATIVE else source for source in SUITABLE[kind])


def apply(prediction: DepthPrediction, scale: Scale) -> DepthPrediction:
    """Return the prediction in metres, the scale's variance added to that of its depth (first order).

    Inverse depth q' = q / factor + shift, so var q' = (q / factor)^2 ((sigma / depth)^2 + scale.sigma^2)
    - 2 correlation scale.sigma shift_sigma q / factor + shift_sigma^2, and sigma' = depth'^2 sqrt(var q').
    NaN stays NaN and +inf stays +inf; where q' is not positive, nothing is in range (+inf).
    """
    if scale == Scale():
        return prediction
    depth, sigma = prediction.depth, prediction.sigma
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.float32(1 / scale.factor) / depth
        inverse = scaled + np.float32(scale.shift)
        metres = np.where(inverse > LEAST_INVERSE, 1 / inverse, np.float32(np.inf))
        metres = np.where(np.isfinite(depth), metres, depth)
        own = (sigma / depth) ** 2 + np.float32(scale.sigma**2)
        share, moved = scaled * metres, np.float32(scale.shift_sigma) * metres  # relative to q', where nothing overflows
        relative = share**2 * own - np.float32(2 * scale.correlation * scale.sigma) * share * moved + moved**2
        deviation = np.where(np.isfinite(metres), metres * np.sqrt(relative), np.float32(np.nan))
    return DepthPrediction(metres, deviation, prediction.camera)
