"""Bad input: one clear line each, nothing else lost."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import NODE, depth_array, image_message, info_message, wall


def missing_bundle(bundle, tmp_path):
    return {"model": tmp_path / "nowhere"}, ["nowhere", "no such folder"]


def wrong_hash(bundle, tmp_path):
    with bundle.graph_path.open("ab") as graph:
        graph.write(b"x")
    return {"model": bundle.path}, ["model.onnx", "sha256", bundle.sha256]


def unknown_bundle_key(bundle, tmp_path):
    file = bundle.path / "bundle.yaml"
    file.write_text(file.read_text().replace("width:", "widht:"))
    return {"model": bundle.path}, ["bundle.yaml", "unknown key 'widht'", "did you mean 'width'"]


def unknown_engine(bundle, tmp_path):
    return {"model": bundle.path, "engine": "abacus"}, ["engine 'abacus' is unknown", "onnxruntime"]


def unknown_precision(bundle, tmp_path):
    return {"model": bundle.path, "precision": "fp15"}, ["cannot configure", "precision is 'fp15'", "fp32, fp16, int8, bf16"]


def precision_that_the_engine_has_not(bundle, tmp_path):
    return {"model": bundle.path, "engine": "onnxruntime", "precision": "bf16"}, ["cannot configure", "'bf16'", "fp32 or int8"]


def unknown_parameter(bundle, tmp_path):
    return {"model": bundle.path, "max_relativ_sigma": 0.2}, [
        "'max_relativ_sigma' is unknown",
        "did you mean 'max_relative_sigma'",
    ]


def parameter_out_of_range(bundle, tmp_path):
    return {"model": bundle.path, "cloud_stride": 0}, ["cloud_stride"]


def parameter_of_wrong_type(bundle, tmp_path):
    return {"model": bundle.path, "threads": "many"}, ["threads"]


def colour_range_upside_down(bundle, tmp_path):
    return {"model": bundle.path, "color_min_depth": 10, "color_max_depth": 5}, ["color_max_depth is 5.0"]


def relative_bundle_without_a_source(bundle, tmp_path):
    file = bundle.path / "bundle.yaml"
    file.write_text(file.read_text().replace("kind: metric", "kind: scale_invariant"))
    return {"model": bundle.path}, [
        "cannot configure", "bundle.yaml: kind is 'scale_invariant'", "set scale.source to fixed or camera_height or range",
    ]  # fmt: skip


def unknown_source_of_scale(bundle, tmp_path):
    return {"model": bundle.path, "scale.source": "lidar"}, ["scale.source is 'lidar'", "camera_height, range, odometry"]


def height_that_is_not_given(bundle, tmp_path):
    return {"model": bundle.path, "scale.source": "camera_height"}, ["scale.camera_height is 0", "[m]"]


def pose_that_is_none(bundle, tmp_path):
    return {"model": bundle.path, "scale.sensor_pose": "1 2 3"}, [
        "scale.sensor_pose is '1 2 3'",
        "x y z [m] roll pitch yaw [rad]",
    ]


def unknown_scale_parameter(bundle, tmp_path):
    return {"model": bundle.path, "scale.camera_hight": 1.5}, [
        "'scale.camera_hight' is unknown", "did you mean 'scale.camera_height'",
    ]  # fmt: skip


def unknown_qos_of_a_range(bundle, tmp_path):
    parameters = {"model": bundle.path, "scale.source": "range", "qos_overrides./range/points.subscription.depth": "many"}
    return parameters, ["cannot activate", "/range/points", "depth"]


def unknown_qos_of_a_publisher(bundle, tmp_path):
    return {"model": bundle.path, "qos_overrides./points.publisher.reliability": "besteffort"}, [
        "cannot configure", "/points", "`reliability`: `besteffort`", "best_effort",
    ]  # fmt: skip


def unknown_qos_of_a_subscription(bundle, tmp_path):
    return {"model": bundle.path, "qos_overrides./image.subscription.depth": "many"}, ["cannot activate", "/image", "depth"]


@pytest.mark.parametrize(
    "fault",
    [
        missing_bundle, wrong_hash, unknown_bundle_key, unknown_engine, unknown_precision,
        precision_that_the_engine_has_not, unknown_parameter, parameter_out_of_range, parameter_of_wrong_type,
        colour_range_upside_down, relative_bundle_without_a_source, unknown_source_of_scale, height_that_is_not_given,
        pose_that_is_none, unknown_scale_parameter, unknown_qos_of_a_range, unknown_qos_of_a_publisher,
        unknown_qos_of_a_subscription,
    ],
)  # fmt: skip
def test_start_fails_with_one_clear_line(start, make_bundle, tmp_path, fault):
    parameters, expected = fault(make_bundle(), tmp_path)
    process = start(NODE, **parameters)
    assert process.wait() == 1
    errors = process.lines("ERROR") + process.lines("FATAL")
    assert len(errors) == 1, process.log()
    for text in expected:
        assert text in errors[0]
    assert "Traceback" not in process.log()


def test_unknown_key_in_a_parameter_file(start, make_bundle, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    model: {make_bundle().path}\n    cloud_strid: 2\n")
    process = start(NODE, "--params-file", str(file))
    assert process.wait() == 1
    (line,) = process.lines("FATAL")
    assert "'cloud_strid' is unknown; did you mean 'cloud_stride'" in line


def test_a_value_without_its_quotes(start):
    process = start(NODE, "-r", "image:=/camera", "image_raw")
    assert process.wait() == 1
    (line,) = process.lines("FATAL")
    assert "'image_raw'" in line
    assert "name:=value" in line
    assert "Traceback" not in process.log()


@pytest.mark.parametrize(
    ("remapping", "uses"),
    [
        ("camera_info:=/image", ["image (sensor_msgs/msg/Image, in)", "camera_info (sensor_msgs/msg/CameraInfo, in)"]),
        ("depth/image_color:=/image", ["image (sensor_msgs/msg/Image, in)", "depth/image_color (sensor_msgs/msg/Image, out)"]),
        ("range/points:=/points", ["range/points (sensor_msgs/msg/PointCloud2, in)", "points (sensor_msgs/msg/PointCloud2, "]),
    ],
)  # fmt: skip
def test_remappings_onto_one_another_are_refused(start, make_bundle, remapping, uses):
    """Of two types DDS says so in its own words; a node that hears its own cloud would measure its scale by itself."""
    process = start(NODE, "-r", remapping, model=make_bundle().path, **{"scale.source": "range"})
    assert process.wait() == 1
    (line,) = process.lines("ERROR")
    assert f"{remapping.partition(':=')[2]} is both" in line
    assert all(text in line for text in uses)


@pytest.mark.parametrize("key", ["monodepth", "/robot/mono_depth", "/*/mono_depth"])
def test_a_parameter_file_for_another_node_is_said(start, make_bundle, tmp_path, key):
    file = tmp_path / "params.yaml"
    file.write_text(f"{key}:\n  ros__parameters:\n    cloud_stride: 2\n")
    process = start(NODE, "--params-file", str(file), model=make_bundle().path).wait_ready()
    (line,) = process.lines("WARN")
    assert f"{file}: is not for /mono_depth but for /{key.lstrip('/')}" in line


@pytest.mark.parametrize("key", ["mono_depth", "/**", "/*", "/robot:\n  mono_depth"])
def test_a_parameter_file_for_this_node_is_not(start, make_bundle, tmp_path, key):
    """rcl itself says whether it is for the node: cloud_strid, which it hands over, is refused."""
    file = tmp_path / "params.yaml"
    file.write_text(f"{key}:\n    ros__parameters:\n      cloud_strid: 2\n")
    namespace = ("-r", "__ns:=/robot") if "robot" in key else ()
    process = start(NODE, *namespace, "--params-file", str(file), model=make_bundle().path)
    assert process.wait() == 1
    assert "'cloud_strid' is unknown" in process.log()
    file.write_text(file.read_text().replace("strid", "stride"))
    assert not start(NODE, *namespace, "--params-file", str(file), model=make_bundle().path).wait_ready().lines("WARN")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("/point.publisher.depth", "/points.publisher.depth"),
        ("/points.publisher.dept", "/points.publisher.depth"),
        ("points.publisher.depth", "/points.publisher.depth"),
    ],
)
def test_a_qos_override_that_no_topic_takes_is_said(start, make_bundle, name, meant):
    process = start(NODE, model=make_bundle().path, **{f"qos_overrides.{name}": 3}).wait_ready()
    process.wait_log("has no effect")
    (line,) = process.lines("WARN")
    assert f"'qos_overrides.{name}' has no effect; did you mean 'qos_overrides.{meant}'" in line


def test_a_model_below_the_home_folder(start, make_bundle):
    """No shell expands the ~ of model:=~/models/mine."""
    folder = make_bundle().path
    start(NODE, model=f"~/{folder.name}", env={"HOME": str(folder.parent)}).wait_ready()


def test_an_empty_list_of_cameras_is_one_camera(start, make_bundle, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("mono_depth:\n  ros__parameters:\n    camera_names: []\n")
    process = start(NODE, "--params-file", str(file), model=make_bundle().path).wait_ready()
    assert "waiting for images on /image, /camera_info" in process.log()


def test_unreadable_parameter_file(start, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text("/**: [")
    process = start(NODE, "--params-file", str(file))
    assert process.wait() == 1
    (line,) = process.lines("FATAL")
    assert str(file) in line
    assert "Traceback" not in process.log()


def truncated():
    message = wall()
    message.data = message.data[:1000]
    return message, info_message(), ["1000"]


def wrong_size():
    return wall(96, 64), info_message(), ["96", "128x64"]


def unknown_encoding():
    return image_message(np.zeros((64, 128), np.uint8), "jpeg2000"), info_message(), ["jpeg2000", "cv_bridge"]


def zero_focal_length():
    return wall(), info_message(f=0.0), ["fx is 0.0", "calibrate"]


def uncalibrated():
    info = info_message()
    info.k = [0.0] * 9
    return wall(), info, ["K is all zeros", "calibrate"]


def unknown_distortion():
    info = info_message()
    info.distortion_model, info.d = "barrel", [0.1]
    return wall(), info, ["'barrel' is unknown"]


def test_bad_images_are_refused_and_the_next_good_one_is_answered(start, client, make_bundle):
    process = start(NODE, model=make_bundle().path).wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")
    for bad in (truncated, wrong_size, unknown_encoding, zero_focal_length, uncalibrated, unknown_distortion):
        image, info, expected = bad()
        answers = len(client.received["depth/image_rect"])

        def said(expected: list[str] = expected) -> bool:
            return any(all(text in line for text in expected) for line in process.lines("ERROR"))

        client.send_until(said, image, info, f"{expected} in an error line")
        assert len(client.received["depth/image_rect"]) == answers
        (depth,) = client.ask(wall(), info_message(), "depth/image_rect")
        np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)
    assert all("image refused (" in line for line in process.lines("ERROR"))
    assert "Traceback" not in process.log()
