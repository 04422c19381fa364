"""Compressed images in; depth in millimetres, compressed, as voxels and fused over time out; all over DDS."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from harness import NODE, cloud_array, depth_array, info_message, stamp, wall
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

DEPTH = "depth/image_rect"


def compressed(kind: str, metres: float = 5.0) -> CompressedImage:
    pixels = np.full((64, 128, 3), (200, 20, round(metres * 10)), np.uint8)  # BGR
    message = CompressedImage(format=f"rgb8; {kind[1:]} compressed bgr8")
    message.header.frame_id = "test_optical_frame"
    message.data.frombytes(cv2.imencode(kind, pixels, [cv2.IMWRITE_JPEG_QUALITY, 100] if kind == ".jpg" else [])[1])
    return message


def test_compressed_images_are_answered_and_corrupt_ones_counted(start, client, make_bundle, states):
    node = start(NODE, model=make_bundle().path, image_transport="compressed").wait_ready()
    client.images = client.node.create_publisher(CompressedImage, "image/compressed", 5)
    client.listen(DEPTH)
    for kind, tolerance in ((".png", 1e-6), (".jpg", 0.05)):
        (depth,) = client.ask(compressed(kind), info_message(), DEPTH)
        np.testing.assert_allclose(depth_array(depth), 5.0, rtol=tolerance)
        corrupt = compressed(kind)
        corrupt.data = corrupt.data[: len(corrupt.data) // 2]
        mark = len(states.seen)

        def counted(mark: int = mark) -> list[DiagnosticStatus]:
            return states.find("mono_depth: frames", DiagnosticStatus.ERROR, "is cut off", mark)

        client.send_until(counted, corrupt, info_message(), "refusals on /diagnostics")
        (depth,) = client.ask(compressed(kind, 8.0), info_message(), DEPTH)
        np.testing.assert_allclose(depth_array(depth), 8.0, rtol=tolerance)
    assert "Traceback" not in node.log()


def test_depth_in_millimetres_and_compressed(start, client, make_bundle):
    """What compressed_depth_image_transport decodes: 12 bytes of header, and a PNG of millimetres."""
    start(NODE, model=make_bundle().path, depth_encoding="16UC1").wait_ready()
    topics = {DEPTH: Image, "depth/uncertainty": Image, f"{DEPTH}/compressedDepth": CompressedImage}
    client.listen(*topics, types=topics)
    depth, sigma, packed = client.ask(wall(metres=5.0, sigma=0.2), info_message(), *topics)
    for message, expected in ((depth, 5000), (sigma, 200)):
        assert (message.encoding, message.step) == ("16UC1", 256)
        assert (np.frombuffer(message.data, "<u2") == expected).all()
    assert packed.format == "16UC1; compressedDepth png"
    pixels = cv2.imdecode(np.frombuffer(packed.data, np.uint8)[12:], cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, np.full((64, 128), 5000, np.uint16))
    assert stamp(packed) == stamp(depth)


def test_a_cloud_of_voxels_has_one_point_per_cube(start, client, make_bundle):
    """A wall at 5 m, 6.4 m x 3.2 m large (128 x 64 pixels at f = 100), in cubes of 1.6 m aligned to the camera."""
    start(NODE, model=make_bundle().path, cloud_voxel_size=1.6).wait_ready()
    client.listen("points")
    (message,) = client.ask(wall(), info_message(cx=63.5, cy=31.5), "points")
    points = cloud_array(message)[0]
    assert (message.height, message.is_dense, message.width) == (1, True, 8)
    np.testing.assert_allclose(sorted({round(float(x), 3) for x in points["x"]}), [-2.4, -0.8, 0.8, 2.4], atol=1e-3)
    np.testing.assert_allclose(points["z"], 5.0, rtol=1e-6)
    np.testing.assert_allclose(points["sigma"], 0.2, rtol=1e-5)


def depth_at(client, metres: float, sigma: float, stamp_ns: int) -> float | None:
    """Depth of the answer to one image of a wall, None if one of the two was lost."""
    image = wall(metres=metres, sigma=sigma)
    image.header.stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    client.images.publish(image)
    for _ in range(40):
        client._executor.spin_once(timeout_sec=0.05)
        if stamp_ns in client.received[DEPTH]:
            return float(depth_array(client.received[DEPTH][stamp_ns])[10, 10])
    return None


def second_depth(client) -> float:
    """A wall at 5 m, and 0.1 s later at 5.2 m: depth of the second, both with a sigma of 2.5 m."""
    for attempt in range(10):  # 10 s apart, so that each begins anew
        base_ns = client.node.get_clock().now().nanoseconds + attempt * 10**10
        first, second = (depth_at(client, m, 2.5, base_ns + after) for m, after in ((5.0, 0), (5.2, 10**8)))
        if first is not None and second is not None:
            assert first == pytest.approx(5.0, rel=1e-6)
            return second
    raise AssertionError("images were lost in ten attempts")


def test_depth_is_fused_over_time_if_asked_for(start, client, make_bundle):
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen(DEPTH)
    client.ask(wall(), info_message(), DEPTH)
    assert second_depth(client) == pytest.approx(5.2, rel=1e-6)
    request = SetParameters.Request(parameters=[Parameter("temporal_filter", value=True).to_parameter_msg()])
    assert client.call(SetParameters, "/mono_depth/set_parameters", request).results[0].successful
    client.ask(wall(), info_message(), DEPTH)
    # A Kalman filter on log depth, whose noise is a tenth of sigma and which wanders by 2 % in a second.
    old, new = (0.1 * 2.5 / 5.0) ** 2 + 0.02**2 * 0.1, (0.1 * 2.5 / 5.2) ** 2
    fused = math.log(5.0) + old / (old + new) * math.log(5.2 / 5.0)
    assert second_depth(client) == pytest.approx(math.exp(fused), rel=1e-4)
