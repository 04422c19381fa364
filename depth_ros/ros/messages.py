"""ROS messages <-> the plain types. The only place that knows both.

An image or cloud made here shares its array's memory (if that is contiguous): publish it before the array changes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from depth_ros import compressed, depth_codec, images
from depth_ros.calibration import camera_from_matrices
from depth_ros.images import UnsupportedEncodingError
from depth_ros.types import IDENTITY_ROTATION, CameraModel, Float32Array, InputError, UInt8Array

BIG_ENDIAN = sys.byteorder == "big"


def stamp_ns(header: Header) -> int:
    """Return the header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def camera_model(info: CameraInfo, image_is_rectified: bool = False) -> CameraModel:
    """Return the camera that took the image: raw (with its distortion), or rectified (the pinhole of P).

    Binning and region of interest are applied, as K and P are those of the full sensor. Raises InputError.
    """
    K, R, P = (np.array(values, np.float64) for values in (info.k, info.r, info.p))
    D = np.array(info.d, np.float64)
    bin_x, bin_y = max(1, info.binning_x), max(1, info.binning_y)
    roi = info.roi
    for matrix, columns in ((K, 3), (P, 4)):
        _crop_and_bin(matrix.reshape(3, columns)[0], roi.x_offset, bin_x)
        _crop_and_bin(matrix.reshape(3, columns)[1], roi.y_offset, bin_y)
    width, height = (roi.width or info.width) // bin_x, (roi.height or info.height) // bin_y
    if image_is_rectified:
        if not np.any(P):
            raise InputError("P is all zeros, but image_is_rectified is set: publish a camera_info with P, or unset it")
        return CameraModel(width, height, float(P[0]), float(P[5]), float(P[2]), float(P[6]))
    return camera_from_matrices(width, height, K, info.distortion_model, D, R, P)


def _crop_and_bin(row: np.ndarray[Any, Any], offset: int, binning: int) -> None:
    """Change a row (f, 0, c, ...) of K or P in place; pixel (0, 0) is the centre of the top-left pixel."""
    if np.any(row) and (offset or binning > 1):
        row[2] = (row[2] - offset + 0.5) / binning - 0.5
        row[:2] /= binning


def image_array(message: Image) -> UInt8Array:
    """Return the message's pixels as RGB (H, W, 3).

    An encoding that images.decode lacks goes to cv_bridge where one is installed and works. Raises InputError.
    """
    data = np.frombuffer(message.data, np.uint8)
    try:
        return images.decode(message.encoding, message.width, message.height, message.step, data, bool(message.is_bigendian))
    except UnsupportedEncodingError as error:
        return _cv_bridge_array(message, error)


def _cv_bridge_array(message: Image, error: UnsupportedEncodingError) -> UInt8Array:
    try:
        from cv_bridge import CvBridge  # optional, and broken under NumPy 2 on some distros

        array: UInt8Array = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as reason:  # cv_bridge raises whatever its C++ side does; the frame is refused either way
        raise InputError(f"{error} (cv_bridge could not help: {reason})") from reason
    return array


def compressed_image_array(message: CompressedImage, camera: CameraModel | None = None) -> UInt8Array:
    """Return the pixels of a JPEG or PNG as RGB (H, W, 3).

    With the `camera` that took it, an image of another size is refused before it is decoded. Raises InputError
    (see compressed.decode).
    """
    size = None if camera is None else (camera.width, camera.height)
    return compressed.decode(message.format, np.frombuffer(message.data, np.uint8), size)


def depth_image(values: Float32Array, header: Header, encoding: str = "32FC1") -> Image:
    """Return (H, W) float32 metres, depth or its sigma, as an image of 32FC1 or of 16UC1, millimetres with 0 invalid (REP 118).

    32FC1 holds inverse depth as well. What 16 bits cannot hold (depth_codec.millimetres) is 0. Raises InputError for another
    encoding.
    """
    depth_codec.check_encoding(encoding)
    return _image(values if encoding == "32FC1" else depth_codec.millimetres(values), encoding, header)


def compressed_depth(
    depth: Float32Array, header: Header, encoding: str = "32FC1", max_depth_m: float = depth_codec.MAX_DEPTH_M
) -> CompressedImage:
    """Return depth [m] (H, W) as compressed_depth_image_transport sends it on `<topic>/compressedDepth`.

    It decodes to an image of `encoding`. Raises InputError for another encoding than 32FC1 and 16UC1.
    NaN, +inf and what exceeds `max_depth_m` (32FC1) or 65.535 m (16UC1) arrive as invalid. Not for sigma in 32FC1: nothing below
    0.15 m can be held.
    """
    message = CompressedImage(header=header, format=f"{encoding}; compressedDepth png")
    message.data.frombytes(depth_codec.compress(depth, encoding, max_depth_m))
    return message


def color_image(values: UInt8Array, header: Header) -> Image:
    """Return (H, W, 3) BGR pixels as a bgr8 image."""
    return _image(values, "bgr8", header)


def _image(values: np.ndarray[Any, Any], encoding: str, header: Header) -> Image:
    height, width = values.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=BIG_ENDIAN)
    message.step = values.nbytes // height
    _lend(values, message)
    return message


def camera_info(camera: CameraModel, header: Header) -> CameraInfo:
    """Return the camera_info of an image that `camera` took, distorted or not."""
    message = CameraInfo(header=header, height=camera.height, width=camera.width)
    lens, pinhole = camera.distortion, camera.rectified()
    message.distortion_model = lens.model if lens else "plumb_bob"
    message.d = list(lens.coefficients) if lens else [0.0] * 5
    message.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    message.r = list(lens.rotation if lens else IDENTITY_ROTATION)
    message.p = [pinhole.fx, 0.0, pinhole.cx, 0.0, 0.0, pinhole.fy, pinhole.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def point_cloud(points: np.ndarray[Any, Any], header: Header) -> PointCloud2:
    """Return an array of cloud.POINT_DTYPE as a PointCloud2.

    (rows, cols) is an organised cloud, whose invalid points are NaN; (N,) a dense one of height 1, without invalid points.
    """
    rows, columns = points.shape if points.ndim == 2 else (1, points.size)
    offsets = points.dtype.fields or {}
    names = points.dtype.names or ()
    message = PointCloud2(header=header, height=rows, width=columns, is_bigendian=BIG_ENDIAN, is_dense=points.ndim == 1)
    message.fields = [PointField(name=n, offset=offsets[n][1], datatype=PointField.FLOAT32, count=1) for n in names]
    message.point_step = points.dtype.itemsize
    message.row_step = message.point_step * columns
    _lend(points, message)
    return message


def _lend(values: np.ndarray[Any, Any], message: Image | PointCloud2) -> None:
    """Make the array's memory the message's data. By the setter it would be copied, or even converted number by number."""
    message._data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data  # which rclpy reads as any buffer of bytes
