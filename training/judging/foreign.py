"""Predictions of other people's models: a folder of 16-bit PNG or npy files named like the images of a set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from depth_ros.bundle import KINDS
from depth_ros.types import Float32Array, InputError
from training.data.truth import EvaluationItem
from training.judging.judge import SkipError
from training.judging.protocols import Prediction, Protocol, resized

SUFFIXES = (".npy", ".png")
HOLDS = ("depth", "disparity")


@dataclass(frozen=True)
class PredictionFolder:
    """Depth, or disparity (inverse depth), one file per image: `a/b/000001.png` or `000001.npy` for the image a/b/000001.jpg.

    A value is stored value / scale: metres for metric depth, 1 / metre for metric disparity (so that the pixels of a stereo
    pair need fx * baseline * their own scale); for the other kinds scale does not matter. 0 and NaN are no prediction,
    except that disparity 0 in an npy is infinitely far. A subfolder `sigma` may hold the uncertainty in the same unit and
    scale. Raises InputError where there is nothing to read; an image whose file is missing, unreadable or of a wrong size is
    skipped and counted.
    """

    folder: Path
    kind: str = "metric"  # of depth_ros.bundle.KINDS
    holds: str = "depth"  # of HOLDS
    scale: float = 1.0
    resize: bool = False  # take files of any size for the whole image, at a network's resolution; else the size must fit
    used: dict[Path, str] = field(default_factory=dict, init=False, compare=False)  # which image a file was read for

    def __post_init__(self) -> None:
        if not self.folder.is_dir() or not any(file.suffix in SUFFIXES for file in self.folder.rglob("*")):
            raise InputError(
                f"{self.folder}: holds no prediction; expected files *{' or *'.join(SUFFIXES)} named like the images"
            )
        if self.kind not in KINDS or self.holds not in HOLDS:
            raise InputError(
                f"{self.folder}: {self.kind} {self.holds}; expected a kind of {', '.join(KINDS)}, and {' or '.join(HOLDS)}"
            )
        if self.kind == "affine_invariant" and self.holds == "depth":
            raise InputError(
                f"{self.folder}: affine-invariant depth; expected disparity, since scale and shift are fitted to that"
            )
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(
                f"{self.folder}: scale is {self.scale}; expected a positive number (256 for KITTI's PNGs, 1 for metres)"
            )

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        """See training.judging.Candidate. Raises InputError if the protocol asks for what files cannot do."""
        if protocol.flip:
            raise InputError(f"{self.folder}: files cannot be flip post-processed; judge without, or write files that are")
        values = self._read(self.folder, item)
        sigma = self._read(self.folder / "sigma", item) if (self.folder / "sigma").is_dir() else None
        if sigma is not None and sigma.shape != values.shape:
            raise SkipError(f"sigma has another size than the prediction in {self.folder}")
        depth, sigma = self._to_depth(values, None if sigma is None else np.where(sigma > 0, sigma, np.float32(np.nan)))
        return resized(Prediction(depth, sigma), item.truth.shape, protocol.disparity_first)

    def _to_depth(self, values: Float32Array, sigma: Float32Array | None) -> tuple[Float32Array, Float32Array | None]:
        if self.holds == "depth":
            return np.where(values > 0, values, np.float32(np.nan)), sigma
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = np.divide(np.float32(1), values)
            if self.kind != "affine_invariant":  # whose disparities have no zero
                depth = np.where(values >= 0, depth, np.float32(np.nan))
            spread = None if sigma is None else np.where(np.isfinite(depth), sigma * depth**2, np.float32(np.nan))
        return depth, spread

    def _read(self, folder: Path, item: EvaluationItem) -> Float32Array:
        file = self._find(folder, item.name)
        values = _read_npy(file) if file.suffix == ".npy" else _read_png(file)
        if values is None:
            raise SkipError(f"unreadable in {folder}: expected 16-bit single-channel PNG or a two-dimensional npy")
        if not self.resize and values.shape not in (item.truth.shape, item.frame.image.shape[:2]):
            raise SkipError(f"wrong size in {folder}: expected that of the image or of its truth (or --resize)")
        return values / np.float32(self.scale)

    def _find(self, folder: Path, name: str) -> Path:
        path = PurePosixPath(name)
        for candidate in (path, PurePosixPath(path.name)):
            for suffix in SUFFIXES:
                file = folder / candidate.with_suffix(suffix)
                if file.is_file():
                    if self.used.setdefault(file, name) != name:
                        raise InputError(
                            f"{file}: would be taken for {self.used[file]} and {name}; expected the images' folders, too"
                        )
                    return file
        raise SkipError(f"no prediction in {folder}")


def _read_npy(file: Path) -> Float32Array | None:
    try:
        values = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    values = np.squeeze(values)
    return values.astype(np.float32) if values.ndim == 2 and values.dtype.kind in "fiu" else None


def _read_png(file: Path) -> Float32Array | None:
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint16 or image.ndim != 2:
        return None
    return np.where(image > 0, image, np.nan).astype(np.float32)
