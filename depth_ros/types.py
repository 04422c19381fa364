"""The plain types that every part of the robot side exchanges. NumPy only, no ROS, no OpenCV."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
UInt8Array = NDArray[np.uint8]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

DISTORTION_MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}  # -> numbers of coefficients
IDENTITY_ROTATION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


EXTREMES = 1e-3, 1e5  # of a focal length by the image's size; beyond them, depth or rays would leave what float32 holds


class InputError(ValueError):
    """Input that breaks a contract; the text says what was found, what was expected and what to do, in one line."""


def quoted(text: str) -> str:
    """Return what somebody else wrote, who may be anybody, as it can stand in a line of a log: escaped, and not too long."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@dataclass(frozen=True)
class Distortion:
    """Lens distortion and the rectification that removes it (sensor_msgs/CameraInfo's D, R and P).

    Raises InputError on an unknown model, and on numbers that are not finite or not as many as it has.
    """

    model: str  # one of DISTORTION_MODELS
    coefficients: tuple[float, ...]
    rotation: tuple[float, ...] = IDENTITY_ROTATION  # (9,) row-major rectified_R_camera
    projection: tuple[float, float, float, float] | None = None  # fx fy cx cy [px] of the rectified image; None: as raw

    def __post_init__(self) -> None:
        if self.model not in DISTORTION_MODELS:
            raise InputError(f"distortion model {quoted(self.model)} is unknown; expected one of {', '.join(DISTORTION_MODELS)}")
        counts = DISTORTION_MODELS[self.model]
        if len(self.coefficients) not in counts:
            raise InputError(
                f"distortion model '{self.model}' has {len(self.coefficients)} coefficients; "
                f"expected {' or '.join(map(str, counts))}: calibrate the camera"
            )
        if len(self.rotation) != 9:
            raise InputError(f"rectification rotation has {len(self.rotation)} numbers; expected 9 (row-major 3x3)")
        for name in ("coefficients", "rotation"):
            if not np.isfinite(getattr(self, name)).all():
                raise InputError(f"distortion {name} are {getattr(self, name)}; expected finite numbers: calibrate the camera")


@dataclass(frozen=True)
class CameraModel:
    """Pinhole camera; pixel (0, 0) is the centre of the top-left pixel.

    Raises InputError if a size is not positive, or a focal length or the principal point is none that a camera can have.
    """

    width: int  # [px]
    height: int  # [px]
    fx: float  # [px]
    fy: float  # [px]
    cx: float  # [px]
    cy: float  # [px]
    distortion: Distortion | None = None

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise InputError(f"camera size is {self.width}x{self.height}; expected a positive width and height")
        low, high = EXTREMES
        for name, size in (("fx", self.width), ("fy", self.height)):
            if not low * size <= getattr(self, name) <= high * size:
                raise InputError(
                    f"camera {name} is {getattr(self, name)}; expected a positive focal length [px], {low:g} to {high:g} "
                    f"times the {size} pixels of the image: calibrate the camera"
                )
        if not (abs(self.cx) <= high * self.width and abs(self.cy) <= high * self.height):
            raise InputError(f"camera principal point is ({self.cx}, {self.cy}); expected pixels of the image or near it")

    @property
    def K(self) -> Float64Array:  # noqa: N802 (its name everywhere)
        """Camera matrix (3, 3) [px] of the image as it is, before any rectification."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> CameraModel:
        """Return the camera of the same image resized to width x height [px]: the same rays, cx' = (cx + 0.5) s - 0.5."""
        if self.distortion is not None:
            raise InputError("a distorted camera cannot be resized; rectify its images first")
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=(self.cx + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
        )

    def rectified(self) -> CameraModel:
        """Return the pinhole camera of the rectified image (itself where there is no distortion)."""
        if self.distortion is None:
            return self
        fx, fy, cx, cy = self.distortion.projection or (self.fx, self.fy, self.cx, self.cy)
        return CameraModel(self.width, self.height, fx, fy, cx, cy)


@dataclass(frozen=True)
class Frame:
    """One camera image with the camera that took it. Raises InputError if the two contradict each other."""

    image: UInt8Array  # (H, W, 3) RGB
    camera: CameraModel
    stamp_ns: int
    frame_id: str

    def __post_init__(self) -> None:
        expected = (self.camera.height, self.camera.width, 3)
        if self.image.shape != expected or self.image.dtype != np.uint8:
            raise InputError(
                f"image is {self.image.shape} {self.image.dtype}, but its camera_info says "
                f"{self.camera.width}x{self.camera.height}: expected {expected} uint8; publish the camera_info of this image size"
            )


@dataclass(frozen=True)
class DepthPrediction:
    """Depth with one standard deviation, at the resolution of `camera`.

    REP 118: depth along +z in metres. REP 117: NaN is invalid, +inf is "nothing in range".
    sigma is NaN wherever depth is not finite.
    """

    depth: Float32Array  # (H, W) [m]
    sigma: Float32Array  # (H, W) [m]
    camera: CameraModel

    def __post_init__(self) -> None:
        expected = (self.camera.height, self.camera.width)
        for name in ("depth", "sigma"):
            array = getattr(self, name)
            if array.shape != expected or array.dtype != np.float32:
                raise InputError(f"{name} is {array.shape} {array.dtype}; expected {expected} float32")

    def inverse(self) -> tuple[Float32Array, Float32Array]:
        """Return inverse depth (H, W) and its standard deviation, to first order sigma / depth^2.

        0 stands for "nothing in range", which the farthest comes close to; NaN is invalid. The deviation is NaN at both.
        """
        with np.errstate(divide="ignore"):
            inverse = np.float32(1) / self.depth
        return inverse, self.sigma * inverse**2

    def without(self, mask: BoolArray | None) -> DepthPrediction:
        """Return the prediction with NaN where mask (H, W) is true (itself where there is no mask)."""
        if mask is None:
            return self
        nan = np.float32(np.nan)
        return DepthPrediction(np.where(mask, nan, self.depth), np.where(mask, nan, self.sigma), self.camera)

    def within(self, min_depth: float, max_depth: float) -> DepthPrediction:
        """Return the prediction with NaN below min_depth [m] and +inf from max_depth [m] on (itself without such limits)."""
        if min_depth <= 0 and max_depth == np.inf:
            return self
        beyond = self.depth >= max_depth
        outside = beyond | (self.depth < min_depth)
        blank = np.where(beyond, np.float32(np.inf), np.float32(np.nan))
        return DepthPrediction(
            np.where(outside, blank, self.depth), np.where(outside, np.float32(np.nan), self.sigma), self.camera
        )
