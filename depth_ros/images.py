"""Image encodings to RGB arrays, rectification of distorted cameras, resizing, and a colour picture of depth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import BoolArray, CameraModel, Distortion, Float32Array, InputError, UInt8Array, quoted


class UnsupportedEncodingError(InputError):
    """An image encoding that `decode` has no rule for."""


def _converted(code: int) -> Callable[[UInt8Array], UInt8Array]:
    def convert(pixels: UInt8Array) -> UInt8Array:
        rgb: UInt8Array = cv2.cvtColor(pixels, code)
        return rgb

    return convert


# encoding (sensor_msgs/image_encodings.hpp) -> bytes per pixel, conversion of the (H, W, bytes) pixels to RGB.
# OpenCV names a Bayer pattern after the second and third pixel of its second row: the sensor's RGGB is its "BayerBG".
_RULES: dict[str, tuple[int, Callable[[UInt8Array], UInt8Array]]] = {
    "rgb8": (3, np.ascontiguousarray),
    "bgr8": (3, _converted(cv2.COLOR_BGR2RGB)),
    "rgba8": (4, _converted(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, _converted(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, _converted(cv2.COLOR_GRAY2RGB)),
    "mono16": (2, _converted(cv2.COLOR_GRAY2RGB)),  # its high bytes only, see decode()
    "bayer_rggb8": (1, _converted(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": (1, _converted(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": (1, _converted(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": (1, _converted(cv2.COLOR_BayerGB2RGB)),
    "yuv422": (2, _converted(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (2, _converted(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, _converted(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": (2, _converted(cv2.COLOR_YUV2RGB_YUY2)),
}
ENCODINGS = tuple(_RULES)


def decode(encoding: str, width: int, height: int, step: int, data: UInt8Array, is_bigendian: bool) -> UInt8Array:
    """Return the RGB image (height, width, 3) in the bytes `data` (1-D), whose rows are `step` bytes apart.

    mono16 becomes 8 bit by its high byte. An rgb8 image without row padding is a view of `data`, anything else a copy.
    Raises UnsupportedEncodingError for an encoding that is not in ENCODINGS, InputError if the sizes contradict each other.
    """
    if encoding not in _RULES:
        raise UnsupportedEncodingError(
            f"image encoding {quoted(encoding)} is not supported; expected one of {', '.join(ENCODINGS)}"
        )
    size, convert = _RULES[encoding]
    _check_layout(encoding, size, width, height, step, data)
    pixels: UInt8Array = data.reshape(height, step)[:, : width * size].reshape(height, width, size)
    if encoding == "mono16":
        pixels = np.ascontiguousarray(pixels[..., 0 if is_bigendian else 1])
    return convert(pixels)


def _check_layout(encoding: str, size: int, width: int, height: int, step: int, data: UInt8Array) -> None:
    image = f"{encoding} image of {width}x{height}"
    if width <= 0 or height <= 0:
        raise InputError(f"{image} is empty; expected a positive width and height")
    if step < width * size:
        raise InputError(f"{image} has step {step}; expected at least {width * size} bytes a row: fix the image's publisher")
    if data.size != step * height:
        state = "truncated" if data.size < step * height else "too long"
        raise InputError(f"{image} is {state}: {data.size} bytes; expected {step * height} (height x step {step})")
    if size == 2 and encoding != "mono16" and width % 2:
        raise InputError(f"{image} has an odd width; 4:2:2 colour comes in pairs of pixels, expected an even width")
    if encoding.startswith("bayer") and (width < 2 or height < 2):
        raise InputError(f"{image} is smaller than one 2x2 Bayer cell")


LARGEST_REMAP = 32766  # [px] a side: OpenCV's fixed-point maps have 16 bits


class Rectifier:
    """Removes a camera's lens distortion; the maps are made once. A camera without distortion passes unchanged.

    `unseen` is the mask (H, W) of rectified pixels that the lens did not see, None where there are none.
    Raises InputError on construction if the image is too large for that.
    """

    def __init__(self, camera: CameraModel) -> None:
        self.camera = camera.rectified()
        self._maps = None if camera.distortion is None else _rectification_maps(camera, camera.distortion)
        self.unseen = self._unseen()

    def __call__(self, image: UInt8Array) -> UInt8Array:
        """Return the rectified image, same size (H, W, 3), bilinear; what the lens did not see is black."""
        if image.shape[:2] != (self.camera.height, self.camera.width):
            raise InputError(
                f"image is {image.shape[1]}x{image.shape[0]}, but its camera_info says "
                f"{self.camera.width}x{self.camera.height}; publish the camera_info of this image size"
            )
        if self._maps is None:
            return image
        rectified: UInt8Array = cv2.remap(image, *self._maps, interpolation=cv2.INTER_LINEAR)
        return rectified

    def _unseen(self) -> BoolArray | None:
        if self._maps is None:
            return None
        white = np.full((self.camera.height, self.camera.width), 255, np.uint8)
        unseen = cv2.remap(white, *self._maps, interpolation=cv2.INTER_LINEAR) < 128  # mostly from beyond the image's border
        return unseen if unseen.any() else None


def _rectification_maps(camera: CameraModel, distortion: Distortion) -> tuple[Any, Any]:
    """Return OpenCV's fixed-point maps (faster than float ones, exact to 1/32 px)."""
    if max(camera.width, camera.height) > LARGEST_REMAP:
        raise InputError(
            f"a {camera.width}x{camera.height} image cannot be rectified; expected at most {LARGEST_REMAP} pixels a side: "
            "rectify it before, or reduce it"
        )
    coefficients = np.array(distortion.coefficients)
    rotation = np.array(distortion.rotation).reshape(3, 3)
    size = (camera.width, camera.height)
    make = cv2.fisheye.initUndistortRectifyMap if distortion.model == "equidistant" else cv2.initUndistortRectifyMap
    maps: tuple[Any, Any] = make(camera.K, coefficients, rotation, camera.rectified().K, size, cv2.CV_16SC2)
    return maps


def resize_image(image: UInt8Array, width: int, height: int) -> UInt8Array:
    """Return the image at width x height (itself if it is that size), low-passed where it shrinks.

    Bilinear to a power of two times the size, then block means; both keep the pixel convention of CameraModel.resized().
    That is close to INTER_AREA, the exact mean, and takes a fraction of its time; bilinear alone is faster still, but aliases.
    """
    if image.shape[:2] == (height, width):
        return image
    fine_size = width * block_size(image.shape[1], width), height * block_size(image.shape[0], height)
    fine: UInt8Array = cv2.resize(image, fine_size, interpolation=cv2.INTER_LINEAR)
    # OpenCV is fast at means of 2x2 and of two rows only; rounding after each adds up to less than a grey level.
    while fine.shape[0] > height and fine.shape[1] > width:
        fine = cv2.resize(fine, (fine.shape[1] // 2, fine.shape[0] // 2), interpolation=cv2.INTER_AREA)
    while fine.shape[0] > height:
        fine = cv2.addWeighted(fine[::2], 0.5, fine[1::2], 0.5, 0)
    if fine.shape[1] > width:
        fine = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    return fine


def block_size(old: int, new: int) -> int:
    """Return how many pixels, a power of two, resize_image averages to one along an axis of `old` pixels that gets `new`."""
    block = 1
    while old > 1.75 * block * new:  # what is left to bilinear, which reads 2 pixels
        block *= 2
    return block


def nearest(old: int, new: int) -> NDArray[np.int64]:
    """Return which of `old` pixels along an axis each of `new` is nearest to, as INTER_NEAREST_EXACT has it."""
    row = np.arange(old, dtype=np.float32)[None]
    indices: NDArray[np.int64] = cv2.resize(row, (new, 1), interpolation=cv2.INTER_NEAREST_EXACT)[0].astype(np.int64)
    return indices


# Colour of nearness 1..255 (far to near); 0 is black, for invalid depth.
_PALETTE: UInt8Array = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_TURBO)
_PALETTE[0] = 0


def colorize(depth: Float32Array, min_depth: float, max_depth: float) -> UInt8Array:
    """Return a BGR picture (H, W, 3) of depth [m] on a log scale: near is red, far and +inf are blue, invalid is black.

    Raises InputError unless 0 < min_depth < max_depth.
    """
    if not 0 < min_depth < max_depth:
        raise InputError(f"colour range is {min_depth} to {max_depth} m; expected 0 < min_depth < max_depth")
    clamped = np.fmin(np.fmax(depth, np.float32(min_depth)), np.float32(max_depth))  # NaN becomes min_depth
    logs = cv2.log(clamped)
    scale = 254.0 / np.log(max_depth / min_depth)
    nearness = cv2.convertScaleAbs(logs, alpha=-scale, beta=1.0 + scale * np.log(max_depth))
    nearness *= depth > 0  # 0 for NaN
    picture: UInt8Array = cv2.LUT(cv2.merge([nearness] * 3), _PALETTE)
    return picture
