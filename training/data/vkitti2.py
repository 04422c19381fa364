"""Virtual KITTI 2 (Cabon et al., arXiv 2001.10773): five drives, ten variations of each, stereo, exact depth and poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from depth_ros.types import BoolArray, CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.files import FileRecording, image_size, list_folder, read_lines, read_png16, report_missing
from training.data.recording import Target, decode, frames_of

BASELINE_M = 0.532725
DEPTH_UNIT = 100.0  # PNG value of a metre
SKY_M = 655.35
VARIATION = "clone"  # the one that looks like KITTI
VALIDATION_SCENE = "Scene02"
CAMERAS = ("Camera_0", "Camera_1")  # left, right


@dataclass(frozen=True)
class Table:
    """The numbers of the left camera in each frame."""

    file: Path
    rows: Mapping[int, Float64Array]

    def check(self, frames: Sequence[int]) -> None:
        """Raise InputError if a frame is missing."""
        lacking = [frame for frame in frames if frame not in self.rows]
        if lacking:
            raise InputError(f"{self.file}: lacks camera 0 in frame {lacking[0]}; expected every frame of {len(frames)} images")


class VirtualKITTI(FileRecording):
    """One drive in one variation. Raises InputError."""

    def __init__(self, folder: Path, root: Path) -> None:
        images = list_folder(folder / "frames" / "rgb" / CAMERAS[0], "the frames of Virtual KITTI 2's left camera")
        intrinsics = _read_table(folder / "intrinsic.txt", 4, "frame cameraID fx fy cx cy")
        extrinsics = _read_table(folder / "extrinsic.txt", 16, "frame cameraID and a world-to-camera matrix (4, 4)")
        frames = [_frame(image) for image in images]
        for table in (intrinsics, extrinsics):
            table.check(frames)
        cameras = {tuple(intrinsics.rows[frame]) for frame in frames}
        if len(cameras) > 1:
            raise InputError(f"{intrinsics.file}: holds {len(cameras)} different cameras; expected one per drive")
        camera = CameraModel(*image_size(images[0]), *cameras.pop())
        poses = np.linalg.inv(np.stack([extrinsics.rows[frame].reshape(4, 4) for frame in frames]))
        truths = [_beside(image, "depth", "depth") for image in images]
        known = [truth if truth.is_file() else None for truth in truths]
        report_missing(folder, "depth files are missing", [truth for truth in truths if not truth.is_file()], len(truths))
        super().__init__(root, camera, images, known, read_depth, video=True, world_T_camera=poses)
        self.name = str(folder)
        self.baseline_m = BASELINE_M if (folder / "frames" / "rgb" / CAMERAS[1]).is_dir() else None
        self._moving = _read_moving(folder / "bbox.txt")
        self._frames, self._index = frames, {frame: index for index, frame in enumerate(frames)}

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self._file(index, right).relative_to(self._root).as_posix()

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return decode(self._file(index, right), self._camera, least)

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; 0 in the sky."""
        if not right:
            return super().depth(index)
        file = _beside(self._file(index, right), "depth", "depth")
        return read_depth(file) if file.is_file() else None

    def moving(self, index: int) -> BoolArray | None:
        """See Recording: what bbox.txt calls moving, by the left camera's instance segmentation; None where either is absent."""
        file = _beside(self._images[index], "instanceSegmentation", "instancegt")
        if self._moving is None or not file.is_file():
            return None
        try:
            with Image.open(file) as image:
                instances = np.asarray(image)  # a palette image: its indices are track + 1, 0 for what is no vehicle
        except OSError as error:
            raise InputError(f"{file}: {error}; expected a palette PNG of instances") from error
        return np.isin(instances, [track + 1 for track in self._moving.get(_frame(file), ())])

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording: by the frames' numbers."""
        return self._index.get(self._frames[index] + offset)

    def _file(self, index: int, right: bool) -> Path:
        left = self._images[index]
        return left.parent.with_name(CAMERAS[1]) / left.name if right else left


def open_vkitti2(config: DataConfig, part: str) -> list[Target]:
    """`source: vkitti2`: data.path holds Scene01 and so on, or is one of them; data.split names variations: "clone", "fog,rain".

    One scene is split by data.train_frames and data.val_frames. Of several, Scene02 validates and the others train; all are
    judged. Raises InputError.
    """
    root = Path(config.root) / config.path
    scenes = sorted(folder for folder in root.glob("Scene*") if folder.is_dir()) or [root]
    variations = config.split.split(",") if config.split else [VARIATION]
    single = len(scenes) == 1
    if not single and part != "test":
        scenes = [scene for scene in scenes if (scene.name == VALIDATION_SCENE) == (part == "val")]
    if not scenes:
        raise InputError(f"{root}: lacks {VALIDATION_SCENE}; expected it to validate on, or one scene as data.path")
    targets = []
    for folder in (scene / variation for scene in scenes for variation in variations):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected Virtual KITTI 2's scenes with the variations of data.split")
        targets += frames_of(VirtualKITTI(folder, root), config, part if single else "test")
    return targets


def read_depth(file: Path) -> Float32Array:
    """Depth (h, w) [m] of a PNG in centimetres, 0 in the sky. Raises InputError."""
    depth = read_png16(file, DEPTH_UNIT)
    return np.where(depth < SKY_M, depth, np.float32(0))


def _frame(file: Path) -> int:
    """Number of the frame, as in rgb_00012.jpg."""
    number = file.stem.rpartition("_")[2]
    if not number.isdecimal():
        raise InputError(f"{file}: has no frame number; expected a name such as rgb_00000.jpg")
    return int(number)


def _beside(image: Path, kind: str, prefix: str) -> Path:
    """The file of another kind: frames/<kind>/Camera_0/<prefix>_00012.png of frames/rgb/Camera_0/rgb_00012.jpg."""
    frames, camera = image.parents[2], image.parent.name
    return frames / kind / camera / f"{prefix}_{image.stem.rpartition('_')[2]}.png"


def _read_table(file: Path, columns: int, expected: str) -> Table:
    """Read lines `frame cameraID numbers` after one header. Raises InputError."""
    table = {}
    for line in read_lines(file, expected)[1:]:
        words = line.split()
        try:
            numbers = np.array(words[2:], dtype=np.float64)
            if numbers.shape != (columns,) or not np.isfinite(numbers).all():
                raise ValueError(f"{len(numbers)} numbers")
            if words[1] == "0":
                table[int(words[0])] = numbers
        except ValueError as error:
            raise InputError(f"{file}: found '{line}' ({error}); expected {expected}") from error
    return Table(file, table)


def _read_moving(file: Path) -> dict[int, list[int]] | None:
    """The tracks that move in each frame, of the left camera; None without the file. Raises InputError."""
    if not file.is_file():
        return None
    moving: dict[int, list[int]] = {}
    expected = "frame cameraID trackID left right top bottom number_pixels truncation_ratio occupancy_ratio isMoving"
    for line in read_lines(file, expected)[1:]:
        words = line.split()
        if len(words) != 11 or words[-1] not in ("True", "False") or not all(word.isdecimal() for word in words[:3]):
            raise InputError(f"{file}: found '{line}'; expected {expected}")
        if words[1] == "0" and words[-1] == "True":
            moving.setdefault(int(words[0]), []).append(int(words[2]))
    return moving
