"""ROS camera calibration YAML (as written by camera_calibration and read by camera_info_manager) <-> CameraModel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from depth_ros.types import DISTORTION_MODELS, IDENTITY_ROTATION, CameraModel, Distortion, Float64Array, InputError

_MATRICES = {
    "camera_matrix": (3, 3),
    "distortion_coefficients": (1, None),
    "rectification_matrix": (3, 3),
    "projection_matrix": (3, 4),
}
HINT = "expected a ROS camera calibration YAML as camera_calibration writes it"


def camera_from_matrices(
    width: int, height: int, K: Float64Array, model: str, D: Float64Array, R: Float64Array, P: Float64Array
) -> CameraModel:
    """Return the camera of a RAW image from the fields of sensor_msgs/CameraInfo (K (9,), D (n,), R (9,), P (12,)).

    The image needs no rectification, and the camera no distortion, where D is zero, R the identity and P has K's numbers.
    An R or P of zeros, or an empty D, counts as not given. Raises InputError on an uncalibrated (zero) K or an unknown model.
    """
    if not np.any(K):
        raise InputError("K is all zeros, the camera is not calibrated: calibrate it (camera_calibration) and publish the result")
    fx, fy, cx, cy = float(K[0]), float(K[4]), float(K[2]), float(K[5])
    rotation = tuple(map(float, R)) if np.any(R) else IDENTITY_ROTATION
    projection = (float(P[0]), float(P[5]), float(P[2]), float(P[6])) if P[0] else None
    plain = CameraModel(width, height, fx, fy, cx, cy)
    same_pinhole = projection is None or np.allclose(projection, (fx, fy, cx, cy), rtol=0, atol=1e-6 * max(fx, fy))
    if not np.any(D) and same_pinhole and np.allclose(rotation, IDENTITY_ROTATION, rtol=0, atol=1e-9):
        return plain
    name = _model_name(model, D)
    if not len(D) and name != "equidistant":  # only R and P are to be applied; a fisheye bends even at D = 0
        name, D = "plumb_bob", np.zeros(5)
    distortion = Distortion(name, tuple(map(float, D)), rotation, projection)
    return CameraModel(width, height, fx, fy, cx, cy, distortion)


def load_calibration(path: Path | str) -> CameraModel:
    """Read a calibration file. Raises InputError naming the file and the key."""
    file = Path(path)
    values = _read(file)
    size = [_entry(file, values, key, int) for key in ("image_width", "image_height")]
    K, D, R, P = (_matrix(file, values, key) for key in _MATRICES)
    try:
        return camera_from_matrices(size[0], size[1], K, str(values.get("distortion_model", "")), D, R, P)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None


def save_calibration(camera: CameraModel, path: Path | str, name: str = "camera") -> None:
    """Write `camera` to a calibration file that load_calibration() and ROS read back."""
    lens = camera.distortion or Distortion("plumb_bob", (0.0,) * 5)
    pinhole = camera.rectified()
    matrices = (
        (camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1),
        lens.coefficients,
        lens.rotation,
        (pinhole.fx, 0, pinhole.cx, 0, 0, pinhole.fy, pinhole.cy, 0, 0, 0, 1, 0),
    )
    values: dict[str, Any] = {"image_width": camera.width, "image_height": camera.height, "camera_name": name}
    values["distortion_model"] = lens.model
    for (key, (rows, columns)), data in zip(_MATRICES.items(), matrices, strict=True):
        values[key] = {"rows": rows, "cols": columns or len(data), "data": [float(number) for number in data]}
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120), encoding="utf-8")


def _model_name(model: str, D: Float64Array) -> str:
    """Name of the distortion model; drivers leave it empty, or call `equidistant` by OpenCV's name for it."""
    if model == "fisheye":
        return "equidistant"
    if model in DISTORTION_MODELS or (model and np.any(D)):
        return model
    return "plumb_bob" if len(D) <= 5 else "rational_polynomial"


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {HINT}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable as YAML: {' '.join(str(error).split())}; {HINT}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds {type(values).__name__}; {HINT}")
    return values


def _entry(file: Path, values: dict[str, Any], key: str, kind: type) -> Any:
    if key not in values:
        raise InputError(f"{file}: key '{key}' is missing; {HINT}")
    if not isinstance(values[key], kind) or isinstance(values[key], bool):
        raise InputError(f"{file}: {key} is {values[key]!r}; expected {kind.__name__}")
    return values[key]


def _matrix(file: Path, values: dict[str, Any], key: str) -> Float64Array:
    rows, columns = _MATRICES[key]
    data = _entry(file, values, key, dict).get("data")
    try:
        numbers = np.array(data, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.full((1, 1), np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or (columns and numbers.size != rows * columns):
        count = f"{rows * columns} numbers" if columns else "a list of numbers"
        raise InputError(f"{file}: {key}.data is {data!r}; expected {count}")
    return numbers
