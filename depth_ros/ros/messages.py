"""ROS messages <-> the plain types. The only place that knows both."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from depth_ros import images
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


def depth_image(values: Float32Array, header: Header) -> Image:
    """Return (H, W) float32 metres as a 32FC1 image (REP 118)."""
    return _image(values, "32FC1", header)


def color_image(values: UInt8Array, header: Header) -> Image:
    """Return (H, W, 3) BGR pixels as a bgr8 image."""
    return _image(values, "bgr8", header)


def _image(values: np.ndarray[Any, Any], encoding: str, header: Header) -> Image:
    height, width = values.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=encoding, is_bigendian=BIG_ENDIAN)
    message.step = values.nbytes // height
    message.data.frombytes(np.ascontiguousarray(values).view(np.uint8))  # 1000x faster than assigning an array
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
    """Return an organised (rows, cols) array of cloud.POINT_DTYPE as a PointCloud2; invalid points are NaN."""
    rows, columns = points.shape
    offsets = points.dtype.fields or {}
    names = points.dtype.names or ()
    message = PointCloud2(header=header, height=rows, width=columns, is_bigendian=BIG_ENDIAN, is_dense=False)
    message.fields = [PointField(name=n, offset=offsets[n][1], datatype=PointField.FLOAT32, count=1) for n in names]
    message.point_step = points.dtype.itemsize
    message.row_step = message.point_step * columns
    message.data.frombytes(np.ascontiguousarray(points).view(np.uint8))
    return message
