"""The geometry of a resized camera, and the contracts of Frame and DepthPrediction."""

import numpy as np
import pytest

from depth_ros.types import CameraModel, DepthPrediction, Distortion, Frame, InputError, quoted

CAMERA = CameraModel(1242, 375, 721.5, 719.0, 609.6, 172.9)


def ray(camera, u, v):
    return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy


@pytest.mark.parametrize("size", [(416, 128), (1242, 375), (2484, 750), (640, 192)])
def test_resized_camera_sees_the_same_rays(size):
    # Independent of the formula: image coordinates measured from the corner of the image (not the centre of the first
    # pixel) scale exactly; corner coordinates are pixel coordinates plus a half.
    resized = CAMERA.resized(*size)
    for corner_x, corner_y in [(0.0, 0.0), (1242.0, 375.0), (300.25, 77.5)]:
        before = ray(CAMERA, corner_x - 0.5, corner_y - 0.5)
        after = ray(resized, corner_x * size[0] / 1242 - 0.5, corner_y * size[1] / 375 - 0.5)
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)


def test_halving_takes_the_principal_point_between_pixels():
    # The centre of pixels 0 and 1 is pixel 0 of the half-size image: a principal point at 0.5 moves to 0.
    half = CameraModel(10, 10, 8.0, 8.0, 0.5, 4.5).resized(5, 5)
    assert (half.cx, half.cy, half.fx, half.fy) == (0.0, 2.0, 4.0, 4.0)


def test_resizing_to_the_same_size_is_identity():
    assert CAMERA.resized(1242, 375) == CAMERA


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": 0}, "0x375"),
        ({"height": -1}, "1242x-1"),
        ({"fx": 0.0}, "fx is 0.0"),
        ({"fy": -5.0}, "fy is -5.0"),
        ({"fx": float("nan")}, "fx is nan"),
        ({"fy": float("inf")}, "fy is inf"),
        ({"fx": 1e30}, r"fx is 1e\+30; expected .* 0.001 to 100000 times the 1242 pixels"),
        ({"fy": 1e-30}, "fy is 1e-30"),
        ({"cx": float("nan")}, "principal point"),
        ({"cy": -1e30}, "principal point"),
    ],
)
def test_impossible_camera_is_refused(change, named):
    values = {"width": 1242, "height": 375, "fx": 721.5, "fy": 719.0, "cx": 609.6, "cy": 172.9} | change
    with pytest.raises(InputError, match=named):
        CameraModel(**values)


def test_distortion_model_must_be_known():
    with pytest.raises(InputError, match=r"'fov' is unknown.*plumb_bob"):
        Distortion("fov", (0.1,))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"coefficients": (0.1, float("nan"), 0.0, 0.0)}, "coefficients are .*nan.*; expected finite numbers"),
        ({"rotation": (float("inf"),) * 9}, "rotation are .*inf.*; expected finite numbers"),
        ({"rotation": (1.0,) * 8}, "8 numbers; expected 9"),
    ],
)
def test_impossible_distortion_is_refused(changes, named):
    with pytest.raises(InputError, match=named):
        Distortion(**({"model": "plumb_bob", "coefficients": (0.1, 0.0, 0.0, 0.0)} | changes))


@pytest.mark.parametrize("text", ["x" * 5000, "two\nlines", "\x1b[31mred", "it's"])
def test_what_somebody_else_wrote_is_one_short_line(text):
    shown = quoted(text)
    assert len(shown) < 80
    assert shown.isprintable()
    assert shown[1:4] == text[:3].encode("unicode_escape").decode()[:3]


def test_distorted_camera_is_not_resized_but_rectified():
    distortion = Distortion("plumb_bob", (0.1, 0, 0, 0, 0), projection=(700.0, 701.0, 600.0, 170.0))
    camera = CameraModel(1242, 375, 721.5, 719.0, 609.6, 172.9, distortion)
    with pytest.raises(InputError, match="rectify"):
        camera.resized(416, 128)
    assert camera.rectified() == CameraModel(1242, 375, 700.0, 701.0, 600.0, 170.0)


def test_rectification_without_projection_keeps_the_intrinsics():
    camera = CameraModel(1242, 375, 721.5, 719.0, 609.6, 172.9, Distortion("plumb_bob", (0.1, 0, 0, 0)))
    assert camera.rectified() == CAMERA
    assert CAMERA.rectified() is CAMERA


def test_frame_must_fit_its_camera():
    Frame(np.zeros((375, 1242, 3), np.uint8), CAMERA, 0, "camera")
    with pytest.raises(InputError, match=r"\(128, 416, 3\).*1242x375"):
        Frame(np.zeros((128, 416, 3), np.uint8), CAMERA, 0, "camera")
    with pytest.raises(InputError, match="float32"):
        Frame(np.zeros((375, 1242, 3), np.float32), CAMERA, 0, "camera")


@pytest.mark.parametrize("broken", ["depth", "sigma"])
def test_prediction_must_fit_its_camera(broken):
    arrays = {"depth": np.ones((375, 1242), np.float32), "sigma": np.ones((375, 1242), np.float32)}
    DepthPrediction(**arrays, camera=CAMERA)
    for wrong in (np.ones((375, 1241), np.float32), np.ones((375, 1242), np.float64)):
        with pytest.raises(InputError, match=f"^{broken} is"):
            DepthPrediction(**(arrays | {broken: wrong}), camera=CAMERA)
