"""Conversions that a camera over DDS does not easily show."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import cloud_array, image_message, info_message
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, RegionOfInterest
from std_msgs.msg import Header

from depth_ros.answers import Answer
from depth_ros.cloud import POINT_DTYPE
from depth_ros.ros import messages
from depth_ros.ros.health import Health, Meter
from depth_ros.types import CameraModel, Distortion, InputError


def test_binning_and_region_of_interest_see_the_same_rays():
    """Pixel (u, v) of a binned crop is the middle of a 2x2 block of the full sensor."""
    info = info_message(640, 480, 500.0, 310.0, 250.0)
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=200)
    camera = messages.camera_model(info)
    assert (camera.width, camera.height) == (200, 100)
    u, v = 7, 9
    full_u, full_v = 100 + 2 * u + 0.5, 40 + 2 * v + 0.5
    assert (u - camera.cx) / camera.fx == pytest.approx((full_u - 310) / 500)
    assert (v - camera.cy) / camera.fy == pytest.approx((full_v - 250) / 500)
    assert camera.distortion is None


@pytest.mark.parametrize("distortion", [None, Distortion("rational_polynomial", (0.1,) * 8, projection=(90.0, 90.0, 30.0, 20.0))])
def test_camera_info_round_trip(distortion):
    camera = CameraModel(64, 48, 100.0, 101.0, 31.25, 23.5, distortion)
    assert messages.camera_model(messages.camera_info(camera, Header())) == camera


def test_rectified_images_need_p():
    info = info_message()
    info.p = [0.0] * 12
    with pytest.raises(InputError, match="P is all zeros"):
        messages.camera_model(info, image_is_rectified=True)


def test_images_carry_what_they_say():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    message = messages.depth_image(values[:, ::-1], Header(frame_id="f"))  # not contiguous
    assert (message.width, message.height, message.step, len(message.data)) == (4, 3, 16, 48)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(3, 4), values[:, ::-1])


def test_depth_in_millimetres_is_16uc1_with_0_for_invalid():
    values = np.array([[1.5, np.nan, np.inf], [65.5, 70.0, 0.25]], np.float32)
    message = messages.depth_image(values, Header(frame_id="f"), "16UC1")
    assert (message.encoding, message.width, message.height, message.step) == ("16UC1", 3, 2, 6)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint16).reshape(2, 3), [[1500, 0, 0], [65500, 0, 250]])
    with pytest.raises(InputError, match="32FC1 or 16UC1"):
        messages.depth_image(values, Header(), "mono16")


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_compressed_depth_says_what_it_is(encoding):
    depth = np.full((6, 8), 4.0, np.float32)
    message = messages.compressed_depth(depth, Header(frame_id="f"), encoding, 50.0)
    assert (message.format, message.header.frame_id) == (f"{encoding}; compressedDepth png", "f")
    data = bytes(message.data)
    kind, a, b = struct.unpack("<iff", data[:12])
    values = cv2.imdecode(np.frombuffer(data[12:], np.uint8), cv2.IMREAD_UNCHANGED)
    assert (values.dtype, values.shape, kind) == (np.uint16, (6, 8), 0)
    np.testing.assert_allclose(a / (values - b) if encoding == "32FC1" else values / 1000, 4.0, rtol=1e-3)


def test_compressed_images_are_decoded_for_their_camera():
    red = np.zeros((12, 16, 3), np.uint8)
    red[..., 2] = 250  # OpenCV's order is blue, green, red
    data = cv2.imencode(".jpg", red)[1].tobytes()
    message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=data)
    camera = CameraModel(16, 12, 10.0, 10.0, 8.0, 6.0)
    for pixels in (messages.compressed_image_array(message, camera), messages.compressed_image_array(message)):
        np.testing.assert_allclose(pixels, np.broadcast_to([250, 0, 0], (12, 16, 3)), atol=5)
    with pytest.raises(InputError, match="16x12, but its camera_info says 32x12"):
        messages.compressed_image_array(message, CameraModel(32, 12, 10.0, 10.0, 8.0, 6.0))
    with pytest.raises(InputError, match="is empty"):
        messages.compressed_image_array(CompressedImage(format="jpeg"), camera)


def test_unorganised_cloud_is_one_dense_row():
    points = np.zeros(5, POINT_DTYPE)
    points["z"] = np.arange(5)
    message = messages.point_cloud(points, Header())
    assert (message.height, message.width, message.row_step, message.is_dense) == (1, 5, 100, True)
    np.testing.assert_array_equal(cloud_array(message)["z"], [np.arange(5)])
    empty = messages.point_cloud(points[:0], Header())
    assert (empty.height, empty.width, len(empty.data), empty.is_dense) == (1, 0, 0, True)


def test_new_messages_survive_the_wire():
    header = Header(frame_id="camera")
    sent = [
        messages.compressed_depth(np.full((6, 8), 4.0, np.float32), header),
        messages.depth_image(np.full((6, 8), 4.0, np.float32), header, "16UC1"),
        messages.point_cloud(np.zeros(3, POINT_DTYPE), header),
        messages.point_cloud(np.zeros(0, POINT_DTYPE), header),
    ]
    for message in sent:
        assert deserialize_message(serialize_message(message), type(message)) == message


def test_lent_memory_is_sent_as_ordinary_bytes_are():
    values = np.random.default_rng(0).random((6, 8), np.float32)
    lent = messages.depth_image(values, Header(frame_id="f"))
    ordinary = messages.depth_image(values, Header(frame_id="f"))
    ordinary.data = values.tobytes()
    assert serialize_message(lent) == serialize_message(ordinary)
    values[:] = 0  # no copy was made
    assert not any(lent.data)


def test_cloud_layout():
    points = np.zeros((2, 3), POINT_DTYPE)
    points["x"], points["sigma"] = [[1, 2, 3], [4, 5, 6]], np.nan
    message = messages.point_cloud(points, Header())
    assert [field.offset for field in message.fields] == [0, 4, 8, 12, 16]
    np.testing.assert_array_equal(cloud_array(message)["x"], points["x"])
    assert np.isnan(cloud_array(message)["sigma"]).all()
    assert (message.height, message.width, message.is_dense) == (2, 3, False)


def test_unknown_encoding_names_itself():
    with pytest.raises(InputError, match="nv99"):
        messages.image_array(image_message(np.zeros((4, 4), np.uint8), "nv99"))


def test_health_is_read_in_periods():
    now = [0.0]
    health = Health(clock=lambda: now[0])
    meter, slower = Meter(health), Meter(health)
    now[0] = 2.0
    assert meter.read(0) is None
    for latency_ms in (10, 20, 90):
        health.image_received(0, 0)
        health.frame_answered(latency_ms * 1_000_000, Answer(None, None, latency_ms / 2, 0.25))
    health.image_received(0, 0)
    health.frame_refused("too dark")
    now[0] = 4.0
    figures = meter.read(3)
    assert str(figures) == "2.0 images/s in, 1.5 answered/s, latency 20 ms (max 90), 3 dropped, 1 refused"
    assert figures.latency_p95_ms == pytest.approx(20 + 0.9 * 70)  # at 0.95 of the way from the first of three to the last
    assert meter.read(3) is None
    health.image_received(0, 0)
    health.frame_answered(70_000_000, None)
    now[0] = 5.0
    assert str(meter.read(4)) == "1.0 images/s in, 1.0 answered/s, latency 70 ms (max 70), 1 dropped, 0 refused"
    assert str(slower.read(4)) == "1.0 images/s in, 0.8 answered/s, latency 45 ms (max 90), 4 dropped, 1 refused"
    now[0] = 8.5
    assert health.silent_s() == pytest.approx(4.5)


def test_stamps_that_tell_no_latency_are_noticed():
    health, second = Health(), 10**9
    assert health.wrong_time() == ""
    for stamp_ns, age_ns, text in (
        (100 * second, second // 100, ""),
        (200 * second, -second, "1.0 s in the future"),
        (300 * second, 7 * second, "7.0 s old when they arrive"),
        (400 * second, 4 * second, ""),
        (0, 400 * second, "stamp 0"),
    ):
        health.image_received(stamp_ns, stamp_ns + age_ns)
        assert text in health.wrong_time() if text else not health.wrong_time()
    assert health.jumps == 1  # to 0
    health.image_received(5 * second, 0)  # a simulated clock that nobody moves
    assert "use_sim_time is set, and nobody publishes /clock" in health.wrong_time()
    health.image_received(5 * second, 5 * second)
    health.image_received(5 * second - 1, 5 * second)  # out of order, no jump
    assert health.jumps == 1
