from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.calibration import camera_from_matrices, load_calibration, save_calibration
from depth_ros.images import Rectifier
from depth_ros.types import CameraModel, Distortion, InputError

# As the ROS camera_calibration tool writes it.
CALIBRATOR_YAML = """\
image_width: 640
image_height: 480
camera_name: narrow_stereo
camera_matrix:
  rows: 3
  cols: 3
  data: [438.783367, 0.000000, 305.593336, 0.000000, 437.302876, 243.738352, 0.000000, 0.000000, 1.000000]
distortion_model: plumb_bob
distortion_coefficients:
  rows: 1
  cols: 5
  data: [-0.361976, 0.110510, 0.001014, 0.000505, 0.000000]
rectification_matrix:
  rows: 3
  cols: 3
  data: [0.999978, 0.002789, -0.006046, -0.002816, 0.999986, -0.004401, 0.006034, 0.004417, 0.999972]
projection_matrix:
  rows: 3
  cols: 4
  data: [393.653800, 0.0, 322.797939, 0.0, 0.0, 393.653800, 241.090902, 0.0, 0.0, 0.0, 1.0, 0.0]
"""
IDENTITY = np.eye(3).ravel()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "camera.yaml"
    path.write_text(CALIBRATOR_YAML)
    return path


def test_file_of_the_calibrator(file):
    camera = load_calibration(file)
    assert (camera.width, camera.height) == (640, 480)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (438.783367, 437.302876, 305.593336, 243.738352)
    assert camera.distortion.model == "plumb_bob"
    assert camera.distortion.coefficients == (-0.361976, 0.110510, 0.001014, 0.000505, 0.0)
    assert camera.distortion.rotation[1] == 0.002789
    rectified = camera.rectified()
    assert (rectified.fx, rectified.fy, rectified.cx, rectified.cy) == (393.6538, 393.6538, 322.797939, 241.090902)


@pytest.mark.parametrize(
    "distortion",
    [
        None,
        Distortion("plumb_bob", (-0.3, 0.1, 0.0, 0.001, 0.0)),
        Distortion("rational_polynomial", (0.1,) * 8, projection=(90.0, 91.0, 30.0, 20.0)),
        Distortion("equidistant", (0.1, 0.01, 0.0, 0.0), rotation=(0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_round_trip(tmp_path, distortion):
    camera = CameraModel(64, 48, 100.0, 101.0, 31.25, 23.5, distortion)
    save_calibration(camera, tmp_path / "camera.yaml")
    again = load_calibration(tmp_path / "camera.yaml")
    assert again.rectified() == camera.rectified()
    assert (again.fx, again.fy, again.cx, again.cy) == (100.0, 101.0, 31.25, 23.5)
    assert (again.distortion is None) == (distortion is None)
    if distortion is not None:
        assert (again.distortion.model, again.distortion.coefficients) == (distortion.model, distortion.coefficients)
        assert again.distortion.rotation == distortion.rotation


def test_calibration_of_real_chessboards(tmp_path, shared_data):
    """Calibrate OpenCV's left chessboard pictures, save, read back: reprojection as good as before."""
    corners, size = [], None
    for path in sorted((shared_data / "opencv_samples" / "chessboard").glob("left*.jpg")):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        size = image.shape[::-1]
        found, points = cv2.findChessboardCorners(image, (9, 6))
        if found:
            corners.append(cv2.cornerSubPix(image, points, (5, 5), (-1, -1), (cv2.TERM_CRITERIA_COUNT, 30, 0)))
    assert len(corners) >= 10
    board = np.zeros((54, 3), np.float32)
    board[:, :2] = np.mgrid[:9, :6].T.reshape(-1, 2)
    rms, K, D, turns, moves = cv2.calibrateCamera([board] * len(corners), corners, size, None, None)
    camera = camera_from_matrices(*size, K.ravel(), "plumb_bob", D.ravel(), IDENTITY, np.zeros(12))
    save_calibration(camera, tmp_path / "left.yaml")
    again = load_calibration(tmp_path / "left.yaml")

    matrix = np.array([[again.fx, 0, again.cx], [0, again.fy, again.cy], [0, 0, 1]])
    squares = []
    for seen, turn, move in zip(corners, turns, moves, strict=True):
        projected, _ = cv2.projectPoints(board, turn, move, matrix, np.array(again.distortion.coefficients))
        squares.append(((projected - seen) ** 2).sum(-1))
    assert np.sqrt(np.mean(squares)) == pytest.approx(rms, rel=1e-6)
    assert rms < 0.5


def test_no_distortion_where_nothing_is_to_rectify():
    K = np.array([100.0, 0, 30, 0, 100, 20, 0, 0, 1])
    P = np.array([100.0, 0, 30, -50, 0, 100, 20, 0, 0, 0, 1, 0])  # the right camera of a rectified pair
    for model, D, rotation, projection in (
        ("plumb_bob", np.zeros(5), IDENTITY, P), ("", np.zeros(0), np.zeros(9), np.zeros(12)), ("none", np.zeros(0), IDENTITY, P),
    ):  # fmt: skip
        assert camera_from_matrices(60, 40, K, model, D, rotation, projection) == CameraModel(60, 40, 100, 100, 30, 20)


def test_rectified_focal_length_alone_needs_rectification():
    K = np.array([100.0, 0, 30, 0, 100, 20, 0, 0, 1])
    P = np.array([80.0, 0, 30, 0, 0, 80, 20, 0, 0, 0, 1, 0])
    camera = camera_from_matrices(60, 40, K, "plumb_bob", np.zeros(5), IDENTITY, P)
    assert camera.rectified() == CameraModel(60, 40, 80, 80, 30, 20)
    assert camera.distortion is not None


@pytest.mark.parametrize("model", ["", "none", "plumb_bob", "rational_polynomial"])
def test_rectification_of_a_lens_without_distortion(model):
    """D = [], as drivers send for a perfect lens, beside a P that halves the focal length: the image shrinks about (cx, cy)."""
    K = np.array([100.0, 0, 30, 0, 100, 20, 0, 0, 1])
    P = np.array([50.0, 0, 30, 0, 0, 50, 20, 0, 0, 0, 1, 0])
    camera = camera_from_matrices(61, 41, K, model, np.zeros(0), IDENTITY, P)
    image = np.zeros((41, 61, 3), np.uint8)
    image[20, 50] = 255
    rows, columns, _ = np.nonzero(Rectifier(camera)(image))
    assert set(zip(rows, columns, strict=True)) == {(20, 40)}


@pytest.mark.parametrize(
    ("model", "count", "expected"), [("", 5, "plumb_bob"), ("", 8, "rational_polynomial"), ("fisheye", 4, "equidistant")]
)
def test_names_of_distortion_models(model, count, expected):
    K = np.array([100.0, 0, 30, 0, 100, 20, 0, 0, 1])
    camera = camera_from_matrices(60, 40, K, model, np.full(count, 0.1), IDENTITY, np.zeros(12))
    assert camera.distortion.model == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("image_width", "width", "key 'image_width' is missing"),
        ("camera_matrix", "K", "key 'camera_matrix' is missing"),
        ("image_width: 640", "image_width: wide", "image_width is 'wide'; expected int"),
        ("image_width: 640", "image_width: 0", "camera size is 0x480"),
        ("[438.783367, 0.000000, ", "[", "camera_matrix.data is"),
        ("438.783367", "0.0", "camera fx is 0.0"),
        ("438.783367", ".nan", "camera_matrix.data is"),
        ("model: plumb_bob", "model: barrel", "'barrel' is unknown"),
        ("image_width: 640", "image_width: [", "not readable as YAML"),
    ],
)
def test_bad_files_are_named(file, old, new, expected):
    assert old in CALIBRATOR_YAML
    file.write_text(CALIBRATOR_YAML.replace(old, new))
    with pytest.raises(InputError) as error:
        load_calibration(file)
    assert str(error.value).startswith(f"{file}: ")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_and_other_content(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot be read"):
        load_calibration(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="holds list"):
        load_calibration(tmp_path / "list.yaml")


def test_uncalibrated_camera():
    with pytest.raises(InputError, match="K is all zeros"):
        camera_from_matrices(60, 40, np.zeros(9), "plumb_bob", np.zeros(5), IDENTITY, np.zeros(12))
