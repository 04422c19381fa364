"""Disparity of pairs without calibration: both signs, up to a shift, unknown where only one eye sees or nothing is to see."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import CameraModel, InputError
from training.config import DataConfig
from training.data.movie import PairError, match, match_pairs
from training.data.recording import Recording, Target
from training.data.sources import open_source

WIDTH, HEIGHT = 320, 160
BACKGROUND, SQUARE = -7.5, 6.25  # disparities [px]: behind the screen, and in front of it
SLOPE = 0.04  # of the floor's disparity, per row
BOX = (slice(30, 90), slice(140, 220))  # of the square, in the left image
FLOOR = 110  # first row
PLAIN = (slice(10, 40), slice(20, 80))  # a wall without texture


def texture(seed: int) -> np.ndarray:
    """Smooth noise, wider than the image."""
    noise = np.random.default_rng(seed).uniform(0, 255, (HEIGHT, WIDTH + 200)).astype(np.float32)
    return np.clip((cv2.GaussianBlur(noise, (0, 0), 1.2) - 128) * 3 + 128, 0, 255)


def floor_disparity(row: np.ndarray) -> np.ndarray:
    return BACKGROUND + SLOPE * (row - FLOOR)


def scene(shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left and right image, and the left one's disparity: a layer is at x - disparity in the right image."""
    rows, columns = np.indices((HEIGHT, WIDTH)).astype(np.float32)
    truth = np.where(rows < FLOOR, BACKGROUND, floor_disparity(rows)).astype(np.float32)
    far, near = texture(1), texture(2)
    far[PLAIN[0], PLAIN[1].start + 100 : PLAIN[1].stop + 100] = 90
    eyes = []
    for right in (0.0, 1.0):
        picture = cv2.remap(far, columns + 100 + right * (truth + shift), rows, cv2.INTER_CUBIC)
        square = cv2.remap(near, columns + 100 + right * (SQUARE + shift), rows, cv2.INTER_CUBIC)
        x = columns + right * (SQUARE + shift)
        covered = (rows >= BOX[0].start) & (rows < BOX[0].stop) & (x >= BOX[1].start) & (x < BOX[1].stop)
        eyes.append(np.repeat(np.where(covered, square, picture).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2))
    truth[BOX] = SQUARE
    return eyes[0], eyes[1], truth


def affine_residual(found: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Scale of the least squares fit of found to truth, and its residuals, where both are known."""
    known = np.isfinite(found) & np.isfinite(truth)
    scale, shift = np.polyfit(found[known], truth[known], 1)
    return float(scale), np.abs(scale * found[known] + shift - truth[known])


def theil_sen(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and offset of a line that mismatches do not move: medians over random pairs of points."""
    a, b = np.random.default_rng(0).integers(0, len(x), (2, 20_000))
    apart = np.abs(x[a] - x[b]) > 3
    slope = np.median((y[a] - y[b])[apart] / (x[a] - x[b])[apart])
    return float(slope), float(np.median(y - slope * x))


@pytest.mark.parametrize("shift", [0.0, 12.0, -9.0])
def test_disparity_of_both_signs_is_found_up_to_the_shift(shift: float) -> None:
    left, right, truth = scene(shift)
    found = match(left, right)
    known = np.isfinite(found)
    assert known.mean() > 0.6
    assert np.corrcoef(found[known], truth[known])[0, 1] > 0.99
    scale, residual = affine_residual(found, truth)
    assert scale == pytest.approx(1.0, abs=0.02)
    assert np.percentile(residual, 95) < 0.5
    assert np.median((found - truth)[known]) == pytest.approx(shift, abs=0.2)


def test_what_one_eye_alone_sees_or_has_no_texture_is_unknown() -> None:
    left, right, _ = scene()
    known = np.isfinite(match(left, right))
    hidden = int(SQUARE - BACKGROUND)  # the strip beside the square that it covers in the right image
    strip = known[BOX[0], BOX[1].start - hidden : BOX[1].start]
    assert strip[5:-5, 1:-1].mean() < 0.15
    assert known[PLAIN][8:-8, 8:-8].mean() == 0
    assert known[BOX][8:-8, 8:-8].mean() > 0.95


def test_near_is_large_in_either_image_and_exchanged_eyes_turn_depth_inside_out() -> None:
    left, right, _ = scene()
    square, around = (slice(50, 70), slice(150, 200)), (slice(50, 70), slice(245, 300))
    for target in (False, True):
        found = match(left, right, right_is_target=target)
        assert np.nanmedian(found[square]) - np.nanmedian(found[around]) == pytest.approx(SQUARE - BACKGROUND, abs=0.3)
    exchanged = match(right, left)
    assert np.nanmedian(exchanged[square]) - np.nanmedian(exchanged[around]) == pytest.approx(BACKGROUND - SQUARE, abs=0.3)


def test_pairs_that_are_worth_nothing_say_why() -> None:
    left, right, _ = scene()
    with pytest.raises(PairError, match=r"more than 10% of the corners are over 2 px higher|less than 20% of the pixels match"):
        match(left, np.roll(right, 4, axis=0))
    with pytest.raises(PairError, match="all disparities are within 4 px"):
        match(left, np.roll(left, -5, axis=1))
    noise = np.random.default_rng(0).integers(0, 256, left.shape, dtype=np.uint8)
    with pytest.raises(PairError, match="less than 20% of the pixels match in both directions"):
        match(left, noise)
    with pytest.raises(PairError, match="less than 20% of the pixels match in both directions"):
        match(np.full_like(left, 90), np.full_like(left, 90))


class Pairs(Recording):
    """Images by hand, left and right."""

    name, baseline_m = "film", 0.1

    def __init__(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def image_name(self, index: int, right: bool = False) -> str:
        return f"{index}{'r' if right else 'l'}"

    def camera(self, index: int) -> CameraModel:
        height, width = self.pairs[index][0].shape[:2]
        return CameraModel(width, height, width, width, (width - 1) / 2, (height - 1) / 2)

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, CameraModel]:
        return self.pairs[index][right], self.camera(index)


def test_pairs_left_out_are_counted_and_the_others_keep_their_disparity() -> None:
    left, right, truth = scene()
    film = Pairs((left, right), (left, left), (right, right))
    with pytest.warns(UserWarning, match=r"2 of 3 pairs are left out: all disparities are within 4 px; the first is 1l"):
        (target,) = match_pairs([Target(film, index) for index in range(3)], Path("film"))
    assert target.recording.image_name(target.index) == "0l"
    inverse = target.recording.inverse(target.index)
    assert np.nanmedian(np.abs(inverse - truth)) < 0.1
    assert target.recording.inverse(target.index) is not inverse  # nobody can spoil what is kept


def test_single_images_are_no_film() -> None:
    film = Pairs(scene()[:2])
    film.baseline_m = None
    with pytest.raises(InputError, match="film: has no right camera; expected stereo pairs to match"):
        match_pairs([Target(film, 0)], Path("film"))


def test_kitti_as_a_movie_agrees_with_its_true_disparity(shared_data: Path) -> None:
    config = DataConfig(root=str(shared_data), source="folder", path="kitti2015_stereo", stereo=True)
    targets = open_source(config, "test")[:12:4]
    matched = match_pairs(targets, shared_data)
    assert len(matched) == 3
    for target, film in zip(targets, matched, strict=True):
        camera, found = target.recording.camera(target.index), film.recording.inverse(film.index)
        true = camera.fx * target.recording.baseline_m * target.recording.inverse(target.index)
        rows, columns = np.nonzero(np.isfinite(true))
        scale = found.shape[1] / camera.width
        there = found[((rows + 0.5) * scale).astype(int), ((columns + 0.5) * scale).astype(int)]
        known = np.isfinite(there)
        line = theil_sen(there[known], true[rows, columns][known])
        assert line[0] == pytest.approx(1 / scale, rel=0.05)
        assert np.median(np.abs(np.polyval(line, there[known]) - true[rows, columns][known])) < 1.0
