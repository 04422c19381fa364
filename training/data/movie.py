"""Inverse depth of stereo pairs whose calibration nobody knows, as in 3D movies (Ranftl et al., TPAMI 2022, section 4).

Disparity is x_left - x_right of the same point, found by semi-global matching (Hirschmueller, PAMI 2008; OpenCV's) from both
images. It is a focal length times a baseline over depth, plus the shift between the two principal points: a movie sets that
shift to put what matters into the screen, so that disparity has both signs. The larger, the nearer, whatever the shift; that
only takes knowing which image is the left one. Exchanged eyes show as depth turned inside out, which nothing here can tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from depth_ros.images import resize_image
from depth_ros.types import Float32Array, InputError, UInt8Array
from training.data.files import report_missing
from training.data.recording import Excerpt, Target

WIDTH = 640  # [px] larger pairs are reduced to it; all pixels below are of this size
SEARCH = 1 / 8  # of the width: how far to either side a match is looked for
BLOCK = 5  # [px] side of what is compared
UNIQUE = 10  # [%] by which the best match must beat the second
SUBPIXEL = 16  # the matcher's units of a pixel
CONSISTENT = 1.0  # [px] between the disparities found from the left and from the right, and before and after refinement
UNLIKE = 12.0  # [grey levels] mean difference of what matches, apart from exposure: more is a wrong match
TEXTURE, TEXTURE_SIDE = 2.0, 9  # [grey levels] mean horizontal step, in a square of so many pixels: less is no texture
LEAST_KNOWN = 0.2  # of all pixels
LEAST_RANGE = 4.0  # [px] between the 5th and the 95th percentile: less is a flat picture, or one image twice
MISALIGNED, MOST_MISALIGNED = 2.0, 0.1  # [px] of vertical disparity, and the share of corners that may have more
CORNERS = 400


class PairError(Exception):
    """A pair that gives no disparity; the text says why and is counted."""


class MatchedPair(Excerpt):
    """One image of a pair with its disparity (h, w) [px], which may be smaller; NaN where unknown."""

    def __init__(self, target: Target, disparity: Float32Array) -> None:
        super().__init__(target.recording, target.index, target.index + 1)
        self._disparity = disparity.astype(np.float16)  # kept for the whole run; finer than the matcher's subpixels

    def inverse(self, index: int, right: bool = False) -> Float32Array | None:
        """See Recording; of the image that was matched."""
        return self._disparity.astype(np.float32)


def match_pairs(targets: Sequence[Target], where: Path) -> list[Target]:
    """The targets with disparity, found once; warns of those without, by reasons. Raises InputError if none is a pair."""
    single = next((target.recording.name for target in targets if target.recording.baseline_m is None), None)
    if single is not None:
        raise InputError(f"{single}: has no right camera; expected stereo pairs to match")
    matched, skipped = [], defaultdict(list)
    for target in tqdm(targets, desc=f"matching {where.name}", leave=False, disable=None):
        try:
            disparity = match(*_pair(target), right_is_target=target.right)
        except PairError as reason:
            skipped[str(reason)].append(target.recording.image_name(target.index, target.right))
        else:
            matched.append(Target(MatchedPair(target, disparity), 0, target.right))
    for reason, names in skipped.items():
        report_missing(where, f"pairs are left out: {reason}", names, len(targets))
    return matched


def match(left: UInt8Array, right: UInt8Array, *, right_is_target: bool = False) -> Float32Array:
    """Disparity (h, w) [px] of the left image (h, w, 3) or of the right one, NaN where unknown; the larger, the nearer.

    Unknown is what has no texture, what only one image sees, and what the two images' disparities do not agree on. Raises
    PairError for a pair that is not aligned in height, has no range of depth, or has too little that is known.
    """
    if right_is_target:  # mirrored, the right image is a left one
        mirrored = match(right[:, ::-1], left[:, ::-1])
        return mirrored[:, ::-1]
    grey = [cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (left, right)]
    disparity = _search(*grey)
    back = _search(grey[1][:, ::-1], grey[0][:, ::-1])[:, ::-1]
    known = _agrees(disparity, back) & _has_texture(grey[0])
    disparity = np.where(known, _refine(disparity, *grey), np.float32(np.nan))
    _check(disparity, *grey)
    return disparity


def _pair(target: Target) -> tuple[UInt8Array, UInt8Array]:
    """Left and right image of at most WIDTH."""
    images = [target.recording.image(target.index, right)[0] for right in (False, True)]
    height, width = images[0].shape[:2]
    size = (min(width, WIDTH), round(height * min(width, WIDTH) / width))
    return resize_image(images[0], *size), resize_image(images[1], *size)


def _search(image: UInt8Array, other: UInt8Array) -> Float32Array:
    """Disparity (h, w) [px] of the best match within SEARCH, NaN for none; the borders match with nothing beyond them."""
    reach = 16 * max(1, round(SEARCH * image.shape[1] / 16))
    matcher = cv2.StereoSGBM.create(
        minDisparity=-reach, numDisparities=2 * reach, blockSize=BLOCK, P1=8 * BLOCK**2, P2=32 * BLOCK**2,
        uniquenessRatio=UNIQUE, speckleWindowSize=100, speckleRange=2,
    )  # fmt: skip
    padded = [cv2.copyMakeBorder(grey, 0, 0, reach, reach, cv2.BORDER_CONSTANT) for grey in (image, other)]
    found = matcher.compute(*padded)[:, reach:-reach]
    return np.where(found > -SUBPIXEL * reach - 1, found / np.float32(SUBPIXEL), np.float32(np.nan))


def _refine(disparity: Float32Array, left: UInt8Array, right: UInt8Array) -> Float32Array:
    """Disparity (h, w) [px] after two Gauss-Newton steps on the images' difference.

    NaN where they lead further than CONSISTENT or leave the images UNLIKE. The matcher's own subpixels are drawn to whole ones,
    as its cost does not tell them apart, and its blocks widen what is near.
    """
    rows, columns = np.indices(disparity.shape, dtype=np.float32)
    coarse = np.nan_to_num(disparity)
    fine = coarse
    for _ in range(2):
        seen = cv2.remap(right.astype(np.float32), columns - fine, rows, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        difference = seen - left
        difference -= cv2.blur(difference, (TEXTURE_SIDE, TEXTURE_SIDE))  # the two cameras' exposures may differ
        slope = cv2.Sobel(seen, cv2.CV_32F, 1, 0, scale=1 / 8)
        alike = cv2.blur(np.abs(difference), (3, 3)) <= UNLIKE
        step = cv2.blur(difference * slope, (BLOCK, BLOCK)) / (cv2.blur(slope * slope, (BLOCK, BLOCK)) + 1)
        fine = fine + step
    return np.where(alike & (np.abs(fine - disparity) <= CONSISTENT), fine, np.float32(np.nan))


def _agrees(disparity: Float32Array, back: Float32Array) -> np.ndarray:
    """Where the disparity (h, w) of the left image leads to a pixel of the right one whose disparity leads back."""
    rows, columns = np.indices(disparity.shape)
    target = np.round(columns - np.nan_to_num(disparity)).astype(int)
    inside = (target >= 0) & (target < disparity.shape[1])
    returned = back[rows, np.clip(target, 0, disparity.shape[1] - 1)]
    return inside & (np.abs(returned - disparity) <= CONSISTENT)


def _has_texture(grey: UInt8Array) -> np.ndarray:
    steps = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0, scale=1 / 8))
    return cv2.blur(steps, (TEXTURE_SIDE, TEXTURE_SIDE)) >= TEXTURE


def _check(disparity: Float32Array, left: UInt8Array, right: UInt8Array) -> None:
    """Raise PairError for a pair that is not worth its disparity."""
    known = np.isfinite(disparity)
    if known.mean() < LEAST_KNOWN:
        raise PairError(f"less than {LEAST_KNOWN:.0%} of the pixels match in both directions")
    low, high = np.percentile(disparity[known], (5, 95))
    if high - low < LEAST_RANGE:
        raise PairError(f"all disparities are within {LEAST_RANGE:g} px")
    if _misaligned(disparity, left, right) > MOST_MISALIGNED:
        raise PairError(f"more than {MOST_MISALIGNED:.0%} of the corners are over {MISALIGNED:g} px higher or lower in one image")


def _misaligned(disparity: Float32Array, left: UInt8Array, right: UInt8Array) -> float:
    """Share of the corners with a disparity that tracking from there (Lucas and Kanade) finds at another height."""
    corners = cv2.goodFeaturesToTrack(left, CORNERS, 0.01, BLOCK, mask=np.isfinite(disparity).astype(np.uint8))
    if corners is None:
        return 0.0
    columns, rows = corners[:, 0].round().astype(int).T
    start = corners - np.stack([disparity[rows, columns], np.zeros(len(corners), np.float32)], axis=1)[:, None]
    found, tracked, _ = cv2.calcOpticalFlowPyrLK(
        left, right, corners, start, winSize=(15, 15), maxLevel=2, flags=cv2.OPTFLOW_USE_INITIAL_FLOW
    )
    heights = np.abs(found - corners)[tracked[:, 0] == 1][:, 0, 1]
    return float(np.mean(heights > MISALIGNED)) if len(heights) else 0.0
