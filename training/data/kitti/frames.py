"""What KITTI's raw drives and odometry sequences share: images named by frame numbers, where frames may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from depth_ros.types import CameraModel, UInt8Array
from training.config import DataConfig
from training.data.recording import IMAGE_SUFFIXES, Recording, Target, decode, frames_of

MISSING = "images are left out, since their files (of stereo pairs: one of the two) are missing"


class NumberedImages(Recording):
    """Images of one folder, or of the two folders of a rectified pair, named by their frame numbers.

    Frame numbers tell neighbours: a missing frame is a missing neighbour. Of a pair, frames without both images are left out
    and listed in `unpaired`.
    """

    def __init__(self, root: Path, folders: Sequence[Path], camera: CameraModel, baseline_m: float | None = None) -> None:
        found = [_numbered(folder) for folder in folders]
        paired = set.intersection(*map(set, found))
        self.name, self.baseline_m = str(folders[0]), baseline_m
        self.frames = sorted(paired)
        self.unpaired = sorted(set().union(*found) - paired)
        self._root, self._camera = root, camera
        self._files = [[files[frame] for frame in self.frames] for files in found]
        self._index = {frame: index for index, frame in enumerate(self.frames)}

    def __len__(self) -> int:
        return len(self.frames)

    def index_of(self, frame: int) -> int | None:
        """Index of a frame number, None where it is missing."""
        return self._index.get(frame)

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self._files[right][index].relative_to(self._root).as_posix()

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._camera

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return decode(self._files[right][index], self._camera, least)

    def neighbour(self, index: int, offset: int) -> int | None:
        """See Recording."""
        return self.index_of(self.frames[index] + offset)


def all_targets(recordings: Sequence[Recording], config: DataConfig, part: str, by_frames: bool) -> list[Target]:
    """Both sides of every image of the recordings; `by_frames`: of the part that data.train_frames or data.val_frames keep."""
    targets = []
    for recording in recordings:
        whole = [Target(recording, index) for index in range(len(recording))]
        targets += frames_of(recording, config, part) if by_frames else whole
    return [side for target in targets for side in _sides(target)]


def _sides(target: Target) -> list[Target]:
    return [target] if target.recording.baseline_m is None else [target, replace(target, right=True)]


def _numbered(folder: Path) -> dict[int, Path]:
    """Image files by frame number; where a frame is there as PNG and as JPEG, the JPEG, which loads faster."""
    files = sorted(folder.iterdir(), reverse=True) if folder.is_dir() else []
    return {int(file.stem): file for file in files if file.stem.isdigit() and file.suffix.lower() in IMAGE_SUFFIXES}
