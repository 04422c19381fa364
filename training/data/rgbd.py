"""RGB-D video with poses: the TUM benchmark (Sturm et al., IROS 2012) and 7-Scenes (Shotton et al., CVPR 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError
from training.config import ConfigError, DataConfig
from training.data.files import FileRecording, named, read_lines, read_numbers, read_png16, report_missing
from training.data.recording import Target, frames_of
from training.data.video import load_camera

TOLERANCE_S = 0.02  # between an image and its depth, and between an image and the poses around it
TUM_DEPTH_UNIT = 5000.0  # PNG value of a metre
# What the benchmark recommends for all its sequences: depth is registered to the images as they are, lens distortion included.
TUM_CAMERA = CameraModel(640, 480, 525.0, 525.0, 319.5, 239.5)

SEVENSCENES_UNKNOWN = 65535
# Nominal: nobody calibrated the two cameras of 7-Scenes. Its poses and depth are of the depth camera, 25 mm left of the other.
SEVENSCENES_DEPTH_CAMERA = CameraModel(640, 480, 585.0, 585.0, 320.0, 240.0)
SEVENSCENES_CAMERA = CameraModel(640, 480, 525.0, 525.0, 320.0, 240.0)
KINECT_OFFSET_M = 0.025


@dataclass(frozen=True)
class Stamped:
    """Files with the times at which they were taken, in order."""

    stamps_s: Float64Array  # (N,)
    files: tuple[Path, ...]


def open_tum(config: DataConfig, part: str) -> list[Target]:
    """`source: tum`: data.path is a sequence with rgb.txt, depth.txt and groundtruth.txt, or a folder of sequences.

    Sequences are chosen by data.split, or each is split by data.train_frames and data.val_frames; data.calibration replaces the
    benchmark's own camera. Raises InputError or ConfigError.
    """
    root = Path(config.root) / config.path
    folders = [root] if (root / "rgb.txt").is_file() else sorted(file.parent for file in root.glob("*/rgb.txt"))
    if not folders:
        raise InputError(f"{root}: holds no rgb.txt; expected a TUM RGB-D sequence, or a folder of sequences")
    if config.split:
        folders = named({folder.name: folder for folder in folders}, config, part)
    camera = load_camera(Path(config.root) / config.calibration) if config.calibration else TUM_CAMERA
    if camera.distortion:
        raise ConfigError(f"data.calibration: {config.calibration} has distortion; expected none: depth has that of its image")
    return _targets([read_tum(folder, camera, root) for folder in folders], config, part)


def read_tum(folder: Path, camera: CameraModel, root: Path) -> FileRecording:
    """One sequence; warns of images without depth, and of those without a pose, which cannot be trained on. Raises InputError."""
    images, depths = _read_stamped(folder / "rgb.txt"), _read_stamped(folder / "depth.txt")
    matches = associate(images.stamps_s, depths.stamps_s)
    truths = [depths.files[match] if match >= 0 else None for match in matches]
    unmatched = [file for file, truth in zip(images.files, truths, strict=True) if truth is None]
    report_missing(folder, f"images have no depth within {TOLERANCE_S} s", unmatched, len(truths))
    poses = _tum_poses(folder / "groundtruth.txt", images)
    recording = FileRecording(root, camera, images.files, truths, _tum_depth, video=True, world_T_camera=poses)
    recording.name = str(folder)
    return recording


def _tum_depth(file: Path) -> Float32Array:
    return read_png16(file, TUM_DEPTH_UNIT)


def _tum_poses(file: Path, images: Stamped) -> Float64Array | None:
    if not file.is_file():
        return None
    expected = "'time x y z qx qy qz qw'"
    rows = read_numbers(file, 8, expected)
    try:
        poses = interpolate_poses(images.stamps_s, rows)
    except ValueError as error:
        raise InputError(f"{file}: {error}; expected {expected} with unit quaternions") from error
    unknown = [f for f, pose in zip(images.files, poses, strict=True) if not np.isfinite(pose).all()]
    report_missing(file, f"images have no pose within {TOLERANCE_S} s before and after", unknown, len(images.files))
    return poses


def _read_stamped(file: Path) -> Stamped:
    """The files that `time path` lines name; warns of those that do not exist. Raises InputError."""
    entries = []
    for line in read_lines(file, "'time path' a line, as the TUM benchmark has it"):
        stamp, _, name = line.partition(" ")
        try:
            entries.append((float(stamp), file.parent / name.strip()))
        except ValueError as error:
            raise InputError(f"{file}: found '{line}'; expected 'time path', as the TUM benchmark has it") from error
    present = sorted((stamp, path) for stamp, path in entries if path.is_file())
    report_missing(file, "files are missing", [path for _, path in entries if not path.is_file()], len(entries))
    if not present:
        raise InputError(f"{file}: names no file that exists; expected 'time path' a line, as the TUM benchmark has it")
    return Stamped(np.array([stamp for stamp, _ in present]), tuple(path for _, path in present))


def associate(stamps_s: Float64Array, others_s: Float64Array, tolerance_s: float = TOLERANCE_S) -> NDArray[np.intp]:
    """For each stamp (N,) the index of its partner among the others (M,), -1 for none; both in order.

    Partners are each other's nearest, and no more than the tolerance apart.
    """
    partner = _nearest(others_s, stamps_s)
    mutual = _nearest(stamps_s, others_s)[partner] == np.arange(len(stamps_s))
    close = np.abs(others_s[partner] - stamps_s) <= tolerance_s
    return np.where(mutual & close, partner, -1)


def _nearest(stamps_s: Float64Array, queries_s: Float64Array) -> NDArray[np.intp]:
    after = np.clip(np.searchsorted(stamps_s, queries_s), 1, max(len(stamps_s) - 1, 1))
    before, after = after - 1, np.minimum(after, len(stamps_s) - 1)
    return np.where(queries_s - stamps_s[before] <= stamps_s[after] - queries_s, before, after)


def interpolate_poses(stamps_s: Float64Array, rows: Float64Array) -> Float64Array:
    """World_T_camera (N, 4, 4) [m] at the stamps, from rows of time, x, y, z, qx, qy, qz, qw: linear and spherical linear.

    NaN where the poses before and after are not both within TOLERANCE_S. Raises ValueError for a quaternion of length 0.
    """
    _, first = np.unique(rows[:, 0], return_index=True)
    rows = rows[first]
    poses = np.full((len(stamps_s), 4, 4), np.nan)
    if len(rows) < 2:
        return poses
    after = np.clip(np.searchsorted(rows[:, 0], stamps_s), 1, len(rows) - 1)
    waits = np.stack([stamps_s - rows[after - 1, 0], rows[after, 0] - stamps_s])
    known = ((waits >= 0) & (waits <= TOLERANCE_S)).all(axis=0)
    poses[known] = np.eye(4)
    poses[known, :3, :3] = Slerp(rows[:, 0], Rotation.from_quat(rows[:, 4:]))(stamps_s[known]).as_matrix()
    for axis in range(3):
        poses[known, axis, 3] = np.interp(stamps_s[known], rows[:, 0], rows[:, 1 + axis])
    return poses


def open_sevenscenes(config: DataConfig, part: str) -> list[Target]:
    """`source: 7scenes`: data.path is a scene with seq-01 and so on, TrainSplit.txt and TestSplit.txt; or one sequence.

    Training and validation frames are data.train_frames and data.val_frames of each training sequence. Raises InputError.
    """
    root = Path(config.root) / config.path
    if any(root.glob("frame-*.color.png")):
        return _targets([read_sevenscenes(root, root)], config, part)
    if config.split:
        folders = named({folder.name: folder for folder in sorted(root.glob("seq-*"))}, config, part)
    else:
        folders = _official(root / ("TestSplit.txt" if part == "test" else "TrainSplit.txt"))
    return _targets([read_sevenscenes(folder, root) for folder in folders], config, part)


def _official(file: Path) -> list[Path]:
    """The sequence folders that a split file names: sequence1 is seq-01."""
    expected = "sequence1 and so on, one a line, beside the folders seq-01 and so on"
    folders = []
    for line in read_lines(file, expected):
        number = line.removeprefix("sequence")
        if not number.isdecimal():
            raise InputError(f"{file}: found '{line}'; expected {expected}")
        folders.append(file.parent / f"seq-{int(number):02d}")
    if not folders:
        raise InputError(f"{file}: names no sequence; expected {expected}")
    return folders


def read_sevenscenes(folder: Path, root: Path) -> FileRecording:
    """One sequence; warns of images without depth, and of those without a pose, which cannot be trained on. Raises InputError."""
    images = sorted(folder.glob("frame-*.color.png"))
    if not images:
        raise InputError(f"{folder}: holds no frame-000000.color.png and so on; expected a sequence of 7-Scenes")
    world_T_colour, truths, lacking = np.full((len(images), 4, 4), np.nan), [], []
    depth_T_colour = np.eye(4)
    depth_T_colour[0, 3] = KINECT_OFFSET_M
    for index, image in enumerate(images):
        truth, pose = (image.with_name(image.name.replace("color.png", kind)) for kind in ("depth.png", "pose.txt"))
        truths.append(truth if truth.is_file() else None)
        lacking += [file for file in (truth, pose) if not file.is_file()]
        if pose.is_file():
            matrix = read_numbers(pose, 4, "a camera-to-world matrix (4, 4)")
            if matrix.shape != (4, 4):
                raise InputError(f"{pose}: holds {len(matrix)} lines; expected a camera-to-world matrix (4, 4)")
            world_T_colour[index] = matrix @ depth_T_colour
    report_missing(folder, "depth and pose files are missing", lacking, 2 * len(images))
    recording = FileRecording(
        root, SEVENSCENES_CAMERA, images, truths, _sevenscenes_depth, video=True, world_T_camera=world_T_colour
    )
    recording.name = str(folder)
    return recording


def _sevenscenes_depth(file: Path) -> Float32Array:
    values = read_png16(file, 1.0)
    depth = np.where(values == SEVENSCENES_UNKNOWN, np.float32(0), values / np.float32(1000))
    return register_depth(depth, SEVENSCENES_DEPTH_CAMERA, SEVENSCENES_CAMERA, KINECT_OFFSET_M)


def register_depth(depth: Float32Array, camera: CameraModel, other: CameraModel, offset_m: float) -> Float32Array:
    """Depth (h, w) [m] of a camera as another one sees it that looks the same way from `offset_m` to its right; nearest wins."""
    rows, columns = np.nonzero(depth > 0)
    z = depth[rows, columns]
    x = (columns - camera.cx) / camera.fx - offset_m / z
    u = np.round(other.fx * x + other.cx).astype(int)
    v = np.round(other.fy * (rows - camera.cy) / camera.fy + other.cy).astype(int)
    seen = (u >= 0) & (u < other.width) & (v >= 0) & (v < other.height)
    result = np.full((other.height, other.width), np.inf, np.float32)
    np.minimum.at(result, (v[seen], u[seen]), z[seen])
    return np.where(np.isfinite(result), result, np.float32(0))


def _targets(recordings: list[FileRecording], config: DataConfig, part: str) -> list[Target]:
    """The part of each sequence, or all of those that data.split chose; to train on, only frames that have their pose."""
    targets = [t for recording in recordings for t in frames_of(recording, config, "test" if config.split else part)]
    return targets if part == "test" else [t for t in targets if t.recording.neighbour(t.index, 0) is not None]
