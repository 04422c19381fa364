"""Other people's predictions on disk: what they mean, and what becomes of files that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import CameraModel, Frame, InputError
from training.data.truth import EvaluationItem, EvaluationSet, open_evaluation_set
from training.judging.foreign import PredictionFolder
from training.judging.judge import judge_set
from training.judging.protocols import PROTOCOLS

CAMERA = CameraModel(40, 20, 50.0, 50.0, 19.5, 9.5)
RAW, MEDIAN, MIDAS = PROTOCOLS["kitti2015"], PROTOCOLS["eigen"], PROTOCOLS["midas"]
WriteSet = Callable[..., Path]


@pytest.fixture
def truths() -> np.ndarray:
    """Three images whose depth is stored exactly: multiples of 1/256 m."""
    return np.round(np.random.default_rng(0).uniform(3, 60, (3, 20, 40)) * 256) / 256


@pytest.fixture
def dataset(tmp_path: Path, write_set: WriteSet, truths: np.ndarray) -> EvaluationSet:
    return open_evaluation_set(write_set(tmp_path / "set", CAMERA, np.zeros((3, 20, 40, 3), np.uint8), truths))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write arrays (N, H, W) as npy files, or as 16-bit PNGs, named like the images of write_set."""

    def to_files(values: np.ndarray, suffix: str = ".npy", folder: str = "theirs") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True, parents=True)
        for index, image in enumerate(values):
            file = tmp_path / folder / f"{index:06d}{suffix}"
            if suffix == ".npy":
                np.save(file, image)
            else:
                cv2.imwrite(str(file), np.round(image).astype(np.uint16))
        return tmp_path / folder

    return to_files


def test_depth_as_png_with_a_scale(dataset, write, truths) -> None:
    scores = judge_set(PredictionFolder(write(256 * 1.25 * truths, ".png"), scale=256), dataset, RAW).scores
    assert scores["abs_rel"] == pytest.approx(0.25, abs=1e-4)
    assert scores["abs_rel_median_scaled"] == pytest.approx(0, abs=2e-3)
    assert (scores["images"], scores["answered"]) == (3, 1)
    assert "nll" not in scores  # no sigma was given


def test_disparity_of_every_kind(dataset, write, truths) -> None:
    pixels = write(50.0 * 0.5 / truths)  # fx x baseline / depth
    metric = judge_set(PredictionFolder(pixels, holds="disparity", scale=25.0), dataset, RAW)
    assert (metric.scaling, metric.scores["abs_rel"]) == ("none", pytest.approx(0, abs=1e-5))
    unscaled = judge_set(PredictionFolder(pixels, "scale_invariant", "disparity"), dataset, RAW)
    assert (unscaled.scaling, unscaled.scores["abs_rel"]) == ("median", pytest.approx(0, abs=1e-5))
    assert unscaled.scores["scale"] == pytest.approx(25, rel=1e-4)
    relative = write(7 / truths - 4)  # mostly negative, as relative inverse depth may be
    affine = judge_set(PredictionFolder(relative, "affine_invariant", "disparity"), dataset, RAW)
    assert (affine.scaling, affine.scores["abs_rel"]) == ("scale_shift", pytest.approx(0, abs=1e-3))
    assert judge_set(PredictionFolder(relative, "affine_invariant", "disparity"), dataset, MIDAS).notes == ()


def test_disparity_that_is_depth_is_noticed(dataset, write, truths) -> None:
    found = judge_set(PredictionFolder(write(truths), "affine_invariant", "disparity"), dataset, MIDAS)
    assert found.notes == ("3 images were aligned with a negative scale: does the candidate state what it is said to?",)


def test_zero_and_nan_are_no_prediction(dataset, write, truths) -> None:
    values = truths.copy()
    values[:, :, :10], values[:, :, 10:20] = 0, np.nan
    scores = judge_set(PredictionFolder(write(values)), dataset, replace(RAW, crop="none")).scores
    assert (scores["abs_rel"], scores["answered"]) == (pytest.approx(0, abs=1e-6), 0.5)


def test_files_that_cannot_be_used_are_counted(dataset, write, truths) -> None:
    folder = write(truths)
    (folder / "000000.npy").unlink()
    np.save(folder / "000001.npy", truths[1][:10])
    found = judge_set(PredictionFolder(folder), dataset, RAW)
    assert found.scores["images"] == 1
    assert found.notes == (
        f"1 of 3 images not judged: no prediction in {folder}",
        f"1 of 3 images not judged: wrong size in {folder}: expected that of the image or of its truth (or --resize)",
    )
    (folder / "000002.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"set: no image has truth to compare with .*1 images: unreadable in .*theirs"):
        judge_set(PredictionFolder(folder), dataset, RAW)


def test_a_file_stands_for_one_image(tmp_path) -> None:
    """Drives count their images alike: files without the drives' folders would be taken for both."""
    (tmp_path / "theirs" / "b").mkdir(parents=True)
    for name in ("7.npy", "b/7.npy"):
        np.save(tmp_path / "theirs" / name, np.full((20, 40), 5.0))
    images, truth = np.zeros((20, 40, 3), np.uint8), np.full((20, 40), 5.0, np.float32)
    items = [EvaluationItem(name, Frame(images, CAMERA, 0, name), truth) for name in ("a/7.jpg", "b/7.jpg", "c/7.jpg")]
    theirs = PredictionFolder(tmp_path / "theirs")
    for item in (*items[:2], *items[:2]):
        assert theirs.predict(item, RAW).depth.shape == (20, 40)
    with pytest.raises(InputError, match=r"7\.npy: would be taken for a/7.jpg and c/7.jpg"):
        theirs.predict(items[2], RAW)


def test_a_networks_resolution_is_resized_if_asked(tmp_path, write_set, write) -> None:
    plane = 1 / np.tile((np.arange(40) + 0.5) / 400 + 0.02, (1, 20, 1))  # inverse depth linear in the image
    small = 1 / np.tile((np.arange(10) + 0.5) / 100 + 0.02, (1, 5, 1))
    dataset = open_evaluation_set(write_set(tmp_path / "plane", CAMERA, np.zeros((1, 20, 40, 3), np.uint8), plane))
    found = judge_set(PredictionFolder(write(small, folder="small"), resize=True), dataset, RAW)
    assert found.scores["abs_rel"] == pytest.approx(0, abs=1e-2)
    assert (
        found.scores["abs_rel"]
        < 0.2
        * judge_set(PredictionFolder(tmp_path / "small", resize=True), dataset, replace(RAW, disparity_first=False)).scores[
            "abs_rel"
        ]
    )


def test_their_sigma_is_judged_too(dataset, write, truths) -> None:
    folder = write(1.1 * truths)
    write(0.11 * truths, folder="theirs/sigma")
    found = judge_set(PredictionFolder(folder), dataset, RAW)
    assert found.scores["coverage_1sigma"] == 1.0
    assert found.reliability is not None
    # In disparity: the deviation d of 1 / z becomes d z^2 in depth.
    folder = write(1 / truths, folder="disparity")
    write(0.1 / truths, folder="disparity/sigma")
    as_disparity = judge_set(PredictionFolder(folder, holds="disparity"), dataset, RAW)
    expected = np.mean([np.log(0.1 * t[8:19, 1:38] * np.sqrt(2 * np.pi)).mean() for t in truths])
    assert as_disparity.scores["nll"] == pytest.approx(expected, rel=1e-4)


def test_what_cannot_be_judged_says_so(dataset, write, truths, tmp_path) -> None:
    folder = write(truths)
    (tmp_path / "none").mkdir()
    for arguments, message in (
        ({"folder": tmp_path / "none"}, r"none: holds no prediction; expected files \*.npy or \*.png"),
        ({"folder": folder, "kind": "relative"}, "relative depth; expected a kind of metric, scale_invariant"),
        ({"folder": folder, "kind": "affine_invariant"}, "affine-invariant depth; expected disparity"),
        ({"folder": folder, "scale": 0.0}, "scale is 0.0; expected a positive number"),
    ):
        with pytest.raises(InputError, match=message):
            PredictionFolder(**arguments)
    with pytest.raises(InputError, match="files cannot be flip post-processed"):
        judge_set(PredictionFolder(folder), dataset, replace(RAW, flip=True))
