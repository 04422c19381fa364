"""Middlebury's stereo sets of 2001 to 2021, ETH3D's two-view set, and any folder of rectified pairs with PFM or PNG disparity.

A scene is a folder with two images, a disparity of the left one and a calibration; each has its own size and camera.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.config import DataConfig
from training.data.files import image_size, list_folder, named, read_lines, report_missing
from training.data.recording import Recording, Target, decode, frame_range

# Left image, right image, disparity of the left image. Where several names are given, the first that exists counts.
LAYOUTS = (
    (("im0.png",), ("im1.png",), ("disp0.pfm", "disp0GT.pfm")),  # Middlebury 2014, 2021 and MiddEval3; ETH3D
    (("view1.png",), ("view5.png",), ("disp1.png",)),  # Middlebury 2005, 2006
    (("im2.png", "im2.ppm"), ("im6.png", "im6.ppm"), ("disp2.png", "disp2.pgm")),  # Middlebury 2001, 2003
    (("left.png", "left.jpg"), ("right.png", "right.jpg"), ("disp.pfm", "disp.png")),
)
RELATIVE = "relative"
RELATIVE_BASELINE_M = 0.1  # of pairs without a calibration, whose depth is true up to a factor only
MIDDLEBURY_2006 = (1110, 3740.0, 0.16)  # height of full-size images [px], focal length at full size [px], baseline [m]
PNG16_DISPARITY = 256.0  # value of a pixel in 16-bit PNGs, as KITTI has it
KEYS = "cam0=[fx 0 cx; 0 fy cy; 0 0 1], doffs=<px>, baseline=<mm>, width= and height="


@dataclass(frozen=True)
class PairCalibration:
    """A rectified pair: depth = fx baseline / (disparity + doffs) (middlebury.edu/stereo, file formats)."""

    camera: CameraModel  # of the left image
    baseline_m: float
    doffs: float = 0.0  # [px] cx of the right camera - cx of the left one
    disparity_unit: float | None = None  # value of a pixel in a PNG; none: 1 in 8-bit files, 256 in 16-bit ones

    def depth(self, disparity: Float32Array) -> Float32Array:
        """Depth (h, w) [m] of disparity (h, w) [px], +inf or NaN where unknown; 0 where unknown or not in front."""
        shifted = disparity.astype(np.float64) + self.doffs
        known = np.isfinite(shifted) & (shifted > 0)
        depth = np.divide(self.camera.fx * self.baseline_m, shifted, where=known, out=np.zeros_like(shifted))
        return depth.astype(np.float32)


class StereoPair(Recording):
    """One pair. Where the cameras differ in cx, the right image is shifted as if they did not."""

    def __init__(self, root: Path, left: Path, right: Path, disparity: Path | None, calibration: PairCalibration) -> None:
        self.name, self.baseline_m = str(left.parent), calibration.baseline_m
        self._root, self._left, self._right = root, left, right
        self._disparity, self._calibration = disparity, calibration

    def __len__(self) -> int:
        return 1

    def image_name(self, index: int, right: bool = False) -> str:
        """See Recording."""
        return (self._right if right else self._left).relative_to(self._root).as_posix()

    def camera(self, index: int) -> CameraModel:
        """See Recording."""
        return self._calibration.camera

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[UInt8Array, CameraModel]:
        """See Recording."""
        image, camera = decode(self._right if right else self._left, self._calibration.camera, least)
        shift = self._calibration.doffs * camera.fx / self._calibration.camera.fx
        if right and shift:
            moved = np.array([[1.0, 0.0, -shift], [0.0, 1.0, 0.0]])
            image = cv2.warpAffine(image, moved, (camera.width, camera.height), borderMode=cv2.BORDER_REPLICATE)
        return image, camera

    def depth(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; the truth is the left camera's."""
        if right or self._disparity is None:
            return None
        return self._calibration.depth(read_disparity(self._disparity, self._calibration.disparity_unit))


def open_stereo(config: DataConfig, part: str) -> list[Target]:
    """`source: stereo`: every scene below data.path, or its folders left/, right/ and disp/ with one calibration.

    Parts are the scenes (images) that data.split names, or, in the order of their names, data.train_frames and
    data.val_frames. `data.truth: relative` also takes pairs without a calibration, with a nominal camera. Raises InputError.
    """
    root = Path(config.root) / config.path
    relative = config.truth == RELATIVE
    if config.truth not in ("", RELATIVE):
        raise InputError(f"data.truth is '{config.truth}'; expected none, or {RELATIVE} for pairs without a calibration")
    pairs = _flat(root, relative) if (root / "left").is_dir() else _scenes(root, relative)
    if config.split:
        chosen = named(pairs, config, part)
    else:
        first, last = frame_range(len(pairs), config, part, str(root))
        chosen = list(pairs.values())[first:last]
    return [Target(pair, 0) for pair in chosen]


def _scenes(root: Path, relative: bool) -> dict[str, StereoPair]:
    pairs, lonely = {}, []
    for folder in sorted([root, *(path for path in root.rglob("*") if path.is_dir())]):
        files = [[_first(folder, names) for names in layout] for layout in LAYOUTS]
        left, right, disparity = next((found for found in files if found[0]), (None, None, None))
        if left and right:
            calibration = find_calibration(folder, left, relative)
            pairs[folder.relative_to(root).as_posix()] = StereoPair(root, left, right, disparity, calibration)
        elif left:
            lonely.append(left)
    report_missing(root, "left images have no right one and are left out", lonely, len(lonely) + len(pairs))
    if not pairs:
        expected = ", ".join(f"{left[0]} and {right[0]}" for left, right, _ in LAYOUTS)
        raise InputError(f"{root}: holds no stereo pair; expected folders with {expected}, or the folders left/ and right/")
    return pairs


def _flat(root: Path, relative: bool) -> dict[str, StereoPair]:
    lefts = list_folder(root / "left", "left images")
    calibration = find_calibration(root, lefts[0], relative)
    pairs = {}
    for left in lefts:
        right = root / "right" / left.name
        if not right.is_file():
            raise InputError(f"{right}: no such file; expected the partner of {left}")
        disparity = _first(root / "disp", (f"{left.stem}.pfm", f"{left.stem}.png"))
        pairs[left.name] = StereoPair(root, left, right, disparity, calibration)
    return pairs


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def find_calibration(folder: Path, left: Path, relative: bool) -> PairCalibration:
    """Calibration of a folder's pairs: calib.txt, meta.json, Middlebury 2006's dmin.txt, or a nominal one if `relative`.

    Raises InputError.
    """
    found = None
    if (folder / "calib.txt").is_file():
        found = read_calib(folder / "calib.txt")
    elif (folder / "meta.json").is_file():
        found = _read_meta(folder / "meta.json")
    elif (folder / "dmin.txt").is_file():
        found = _middlebury_2006(folder / "dmin.txt", left)
    if found is None and relative:
        width, height = image_size(left)
        found = PairCalibration(CameraModel(width, height, width, width, (width - 1) / 2, (height - 1) / 2), RELATIVE_BASELINE_M)
    if found is None:
        raise InputError(
            f"{folder}: has no calibration, so that its depth has no metres; expected calib.txt, dmin.txt, or meta.json with K "
            f"and baseline_m; or data.truth: {RELATIVE}"
        )
    return found


def read_calib(file: Path) -> PairCalibration:
    """Middlebury's calib.txt of 2014 and later; its baseline is in millimetres. Raises InputError."""
    values = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", "\n".join(read_lines(file, KEYS)), re.MULTILINE))
    try:
        K = np.array([row.split() for row in values["cam0"].strip("[]").split(";")], dtype=np.float64).reshape(3, 3)
        camera = CameraModel(int(values["width"]), int(values["height"]), *_intrinsics(K))
        calibration = PairCalibration(camera, float(values["baseline"]) / 1000, float(values["doffs"]))
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: {error!r}; expected {KEYS}") from error
    return _checked(calibration, file)


def _read_meta(file: Path) -> PairCalibration | None:
    """K, width, height, baseline_m, doffs_px and disp_scale (PNG value of a pixel); none if K or the baseline is unknown."""
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
        if meta.get("K") is None or meta.get("baseline_m") is None:
            return None
        camera = CameraModel(meta["width"], meta["height"], *_intrinsics(np.array(meta["K"], dtype=np.float64).reshape(3, 3)))
        unit = meta.get("disp_scale")
        calibration = PairCalibration(camera, float(meta["baseline_m"]), float(meta.get("doffs_px", 0)), unit and float(unit))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: {error!r}; expected a JSON with K (3x3), width, height and baseline_m") from error
    return _checked(calibration, file)


def _middlebury_2006(file: Path, left: Path) -> PairCalibration:
    """The 2005 and 2006 sets: disparity files count full-size pixels at any image size, and lack dmin of them."""
    full_height, focal, baseline_m = MIDDLEBURY_2006
    width, height = image_size(left)
    factor = full_height / height
    lines = read_lines(file, "one number")
    try:
        (dmin,) = (float(line) for line in lines)
    except ValueError as error:
        raise InputError(f"{file}: found {lines}; expected one number, the smallest disparity [px]") from error
    camera = CameraModel(width, height, focal / factor, focal / factor, (width - 1) / 2, (height - 1) / 2)
    return PairCalibration(camera, baseline_m, dmin / factor, factor)


def _intrinsics(K: Float64Array) -> tuple[float, float, float, float]:
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def _checked(calibration: PairCalibration, file: Path) -> PairCalibration:
    if not (calibration.baseline_m > 0 and np.isfinite(calibration.doffs)):
        raise InputError(
            f"{file}: baseline is {calibration.baseline_m} m and doffs {calibration.doffs} px; expected a positive baseline "
            "and a finite doffs"
        )
    return calibration


def read_disparity(file: Path, unit: float | None = None) -> Float32Array:
    """Disparity (h, w) [px], +inf where unknown (inf in a PFM, 0 in a PNG, whose values are divided by `unit`).

    Raises InputError.
    """
    if file.suffix == ".pfm":
        return read_pfm(file)
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        found = "no image" if image is None else f"{image.shape} {image.dtype}"
        raise InputError(f"{file}: {found}; expected a single-channel disparity PNG of 8 or 16 bits")
    unit = unit or (PNG16_DISPARITY if image.dtype == np.uint16 else 1.0)
    return np.where(image > 0, image / np.float32(unit), np.float32(np.inf))


def read_pfm(file: Path) -> Float32Array:
    """Values (h, w) of a single-channel PFM: rows from the bottom up, a negative scale means little-endian. Raises InputError.

    The scale's size is a hint for display and left alone (OpenCV divides by it, which breaks Middlebury's disparities).
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; expected a PFM file") from error
    header = re.match(rb"Pf\s+(\d+)\s+(\d+)\s+(-?[\d.]+(?:[eE][+-]?\d+)?)\s", data)
    if header is None:
        raise InputError(f"{file}: begins with {data[:20]!r}; expected the header of a single-channel PFM (Pf, size, scale)")
    width, height, scale = int(header[1]), int(header[2]), float(header[3])
    pixels = data[header.end() :]
    if len(pixels) != 4 * width * height:
        raise InputError(f"{file}: holds {len(pixels)} bytes of pixels; expected {4 * width * height} for {width}x{height}")
    values = np.frombuffer(pixels, "<f4" if scale < 0 else ">f4").reshape(height, width)
    return values[::-1].astype(np.float32)
