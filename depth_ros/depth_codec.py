"""Depth in 16 bits: millimetres, and PNGs in the format of compressed_depth_image_transport."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float32Array, InputError, UInt8Array

UInt16Array = NDArray[np.uint16]

ENCODINGS = ("32FC1", "16UC1")
LARGEST = 65535
PNG_LEVEL = 1  # zlib's fastest; the plugin's default of 3 takes about twice as long to save a few per cent of the bytes
QUANTIZATION_M = (
    100.0  # depth at which two neighbouring values are 1 m apart, the plugin's default; their distance is z^2 / 10100
)
MAX_DEPTH_M = 100.0  # the largest that the plugin lets its own users choose


def millimetres(values: Float32Array) -> UInt16Array:
    """Return metres (H, W) as whole millimetres; 0 is invalid (REP 118, "OpenNI raw representation").

    0 stands for NaN, and for +inf and everything beyond 65.535 m, which 16 bits cannot hold: depth_image_proc and
    depthimage_to_laserscan read 0 as NaN, and any other number as a surface there. What is positive is at least 1.
    """
    with np.errstate(invalid="ignore"):  # NaN compares false
        held = (values > 0) & (values < (LARGEST + 0.5) / 1000)
    scaled = np.where(held, values, np.float32(0)) * np.float32(1000)
    whole: UInt16Array = np.rint(np.maximum(scaled, held)).astype(np.uint16)
    return whole


def inverse_depth(depth: Float32Array, max_depth_m: float) -> tuple[UInt16Array, float, float]:
    """Return depth [m] (H, W) as whole steps of inverse depth, q = a / depth + b, with a and b; 0 is invalid.

    As compressed_depth_image_transport does: a = z0 (z0 + 1), b = 1 - a / max_depth_m, z0 = QUANTIZATION_M; NaN, +inf and what is
    not nearer than max_depth_m become 0, which it decodes as NaN. Unlike it, q is rounded, which halves the error, and what is
    nearer than the largest q (0.15 m) takes that one instead of overflowing.
    """
    if not 0 < max_depth_m < np.inf:
        raise InputError(f"largest depth of a compressed depth image is {max_depth_m} m; expected a positive number")
    a = QUANTIZATION_M * (QUANTIZATION_M + 1)
    b = 1 - a / max_depth_m
    with np.errstate(invalid="ignore"):
        held = (depth > 0) & (depth < max_depth_m)
    steps = np.float32(a) / np.where(held, depth, np.float32(max_depth_m)) + np.float32(b)
    quantized: UInt16Array = np.where(held, np.clip(np.rint(steps), 1, LARGEST), 0).astype(np.uint16)
    return quantized, a, b


def compress(depth: Float32Array, encoding: str, max_depth_m: float = MAX_DEPTH_M) -> UInt8Array:
    """Return depth [m] (H, W) as the bytes of a compressed_depth_image_transport message: its header of 12 bytes and a PNG.

    The header is an int32, 0 for inverse depth, and a and b of inverse_depth as float32 (0 for millimetres, which need none).
    16UC1 holds whole millimetres up to 65.535 m exactly; 32FC1 is exact to z^2 / 20200 (5 mm at 10 m, 32 cm at 80 m).
    Raises InputError for another encoding.
    """
    check_encoding(encoding)
    if encoding == "16UC1":
        steps, a, b = millimetres(depth), 0.0, 0.0
    else:
        steps, a, b = inverse_depth(depth, max_depth_m)
    png: NDArray[Any] = cv2.imencode(".png", steps, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1]
    header = np.frombuffer(struct.pack("<iff", 0, a, b), np.uint8)
    return np.concatenate([header, png.reshape(-1)])


def check_encoding(encoding: str) -> None:
    """Raise InputError for what is no encoding of depth images."""
    if encoding not in ENCODINGS:
        raise InputError(f"depth encoding is '{encoding}'; expected {' or '.join(ENCODINGS)}")
