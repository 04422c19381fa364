"""KITTI Stereo 2015 (Menze and Geiger, CVPR 2015): 200 stereo pairs with disparity truth, moving cars included.

<root>/training/image_2 image_3 disp_occ_0 disp_noc_0 obj_map/<nnnnnn>_10.png
<root>/training/calib_cam_to_cam/<nnnnnn>.txt
"""

from __future__ import annotations

from pathlib import Path

import cv2

from depth_ros.truth import TruthFolder
from depth_ros.types import BoolArray, CameraModel, Float32Array, InputError, UInt8Array
from training.config import ConfigError, DataConfig
from training.data.files import report_missing
from training.data.kitti.calibration import camera_of, read_calibration, stereo_baseline_m
from training.data.kitti.frames import MISSING
from training.data.recording import IMAGE_SUFFIXES, Recording, Target, decode, frame_range

TRUTHS = ("disp_occ", "disp_noc")
DISPARITY_SCALE = 256.0  # PNG value of a pixel


class StereoScene(Recording):
    """One pair: the days of recording, and so the cameras, differ from scene to scene. Raises InputError."""

    def __init__(self, folder: Path, file: Path, truth: str) -> None:
        calibration = read_calibration(folder / "calib_cam_to_cam" / f"{file.stem.split('_')[0]}.txt")
        left, right = (calibration.array(f"P_rect_0{camera}", 3, 4) for camera in (2, 3))
        width, height = calibration.array("S_rect_02", 2).astype(int).tolist()
        self.name, self._folder, self._files = str(file), folder, (file, folder / "image_3" / file.name)
        self._camera, self._truth = camera_of(left, width, height), truth
        self.baseline_m = stereo_baseline_m(left, right, calibration.path)

    def __len__(self) -> int:
        return 1

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return self._files[right].relative_to(self._folder).as_posix()

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._camera

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        return decode(self._files[right], self._camera, least)

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; the truth is the left camera's."""
        folder = self._folder / f"{self._truth}_0"
        if right or not folder.is_dir():
            return None
        return TruthFolder(folder, DISPARITY_SCALE, self._camera.fx * self.baseline_m).depth(self._files[0].name)

    def moving(self, index: int) -> BoolArray | None:
        """See Recording; None without obj_map."""
        file = self._folder / "obj_map" / f"{self._files[0].stem}.png"
        if not file.is_file():
            return None
        objects = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if objects is None or objects.shape != (self._camera.height, self._camera.width):
            found = "no image" if objects is None else f"of shape {objects.shape}"
            raise InputError(f"{file}: is {found}; expected {self._camera.width}x{self._camera.height} object numbers")
        return objects > 0


def open_kitti_stereo2015(config: DataConfig, part: str) -> list[Target]:
    """`source: kitti_stereo2015`: the pairs (frames _10), by data.train_frames, data.val_frames; all to judge. Raises InputError.

    data.truth is disp_occ (all pixels; the default) or disp_noc (those that the right camera sees too). Raises ConfigError.
    """
    truth = config.truth or TRUTHS[0]
    if truth not in TRUTHS:
        raise ConfigError(f"data.truth is '{config.truth}'; expected {' or '.join(TRUTHS)}")
    folder = Path(config.root) / config.path / "training"
    images = folder / "image_2"
    files = sorted(file for file in images.glob("*_10.*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{images}: holds no image <nnnnnn>_10.png; expected KITTI Stereo 2015, unpacked at {folder.parent}")
    first, last = frame_range(len(files), config, part, str(images))
    chosen = files[first:last]
    missing = [file.name for file in chosen if config.stereo and not (folder / "image_3" / file.name).is_file()]
    report_missing(images, MISSING, missing, len(chosen))
    scenes = [StereoScene(folder, file, truth) for file in chosen if file.name not in missing]
    if not scenes:
        raise InputError(f"{folder / 'image_3'}: has no partner of {len(chosen)} images; expected it for data.stereo")
    if (part == "test" or config.depth) and all(scene.depth(0) is None for scene in scenes):
        raise InputError(f"{folder}: none of {len(scenes)} images has its truth; expected {truth}_0/<nnnnnn>_10.png")
    return [Target(scene, 0) for scene in scenes]
