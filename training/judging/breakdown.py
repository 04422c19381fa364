"""Where errors are: by distance, texture, depth edges and motion; how sharp edges are, and how many pixels fly between surfaces.

Depth, truth and masks are (H, W), depth and truth in metres, aligned and clamped as the protocol says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.metrics import DELTA
from depth_ros.types import BoolArray, Float32Array, Float64Array, UInt8Array

DEPTH_BINS_M = (0, 1, 2, 3, 5, 10, 20, 30, 40, 60, 80)
TEXTURE_WINDOW = 7  # [px] side of the square over which the gradient is averaged
TEXTURELESS = 2.0  # mean gradient [grey levels per px] below which a pixel has no texture
EDGE_RATIO = 1.25  # of the true depths of two adjacent pixels, from which on there is a depth edge between them
EDGE_REACH = 2  # [px] around a depth edge
FLYING_MARGIN = 0.1  # relative distance from both surfaces beyond which a pixel hangs between them
Pixels = tuple[NDArray[np.intp], ...]  # rows, columns, each (N,)
Edges = tuple[Pixels, Pixels]  # near pixels and, adjacent to them, far pixels


@dataclass
class Tally:
    """Errors pooled over all pixels of a group, from all images."""

    pixels: int = 0
    sums: Float64Array = field(default_factory=lambda: np.zeros(5))

    def add(self, p: Float64Array, g: Float64Array) -> None:
        """Include predictions p (N,) [m] with their truth g (N,) [m]."""
        relative = (p - g) / g
        self.pixels += p.size
        squared, inliers = (p - g) ** 2, np.maximum(p / g, g / p) < DELTA
        self.sums += [np.abs(relative).sum(), relative.sum(), (squared / g).sum(), squared.sum(), inliers.sum()]

    def scores(self) -> dict[str, float]:
        """pixels, abs_rel, bias (mean of (p - g) / g: below 0 is too near), sq_rel [m], rmse [m], delta1."""
        abs_rel, bias, sq_rel, squared, inliers = (float(total) for total in self.sums / self.pixels)
        scores = {"abs_rel": abs_rel, "bias": bias, "sq_rel": sq_rel, "rmse": math.sqrt(squared), "delta1": inliers}
        return {"pixels": self.pixels, **scores}


@dataclass
class Breakdown:
    """Errors of a set by group, and what becomes of its depth edges."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    sharpness: list[Float64Array] = field(default_factory=list)
    near_edges: int = 0
    flying: int = 0

    def add(
        self, depth: Float32Array, truth: Float32Array, valid: BoolArray, gradient: Float32Array, moving: BoolArray | None = None
    ) -> None:
        """Include one image, given by image_gradient(); `moving` marks objects that move, where that is known."""
        edges = depth_edges(truth, valid)
        near_edges = near(edges, truth.shape)
        for name, group in groups(truth, valid, gradient, near_edges, moving).items():
            if group.any():
                self.tallies.setdefault(name, Tally()).add(depth[group].astype(np.float64), truth[group].astype(np.float64))
        self.sharpness.append(edge_sharpness(depth, truth, edges))
        flying, candidates = flying_pixels(depth, truth, valid, near_edges)
        self.flying += int(flying.sum())
        self.near_edges += int(candidates.sum())

    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of every group that has pixels, in one order for all."""
        return {name: self.tallies[name].scores() for name in GROUPS if name in self.tallies}

    def edge_scores(self) -> dict[str, float]:
        """edge_sharpness (1: as sharp as the truth) and flying_pixel_rate; empty if the truth shows no depth edge."""
        steps = np.concatenate(self.sharpness) if self.sharpness else np.zeros(0)
        if not steps.size:
            return {}
        return {"edge_sharpness": float(steps.mean()), "flying_pixel_rate": self.flying / max(1, self.near_edges)}


def depth_groups() -> dict[str, tuple[float, float]]:
    """Names of the groups by true depth, with their ranges [m]."""
    limits = zip(DEPTH_BINS_M, (*DEPTH_BINS_M[1:], np.inf), strict=True)
    return {f"{low:g}-{high:g} m" if np.isfinite(high) else f"over {low:g} m": (low, high) for low, high in limits}


def groups(
    truth: Float32Array, valid: BoolArray, gradient: Float32Array, edges: BoolArray, moving: BoolArray | None
) -> dict[str, BoolArray]:
    """The valid pixels of each of GROUPS; those of moving objects, and of the rest, only where motion is known."""
    found = {name: valid & (truth >= low) & (truth < high) for name, (low, high) in depth_groups().items()}
    plain, edges = texture(gradient) < TEXTURELESS, edges & valid
    found |= {"texture-less": valid & plain, "textured": valid & ~plain, EDGES: edges, ELSEWHERE: valid & ~edges}
    return found if moving is None else found | {MOVING: valid & moving, STILL: valid & ~moving}


def image_gradient(image: UInt8Array) -> Float32Array:
    """Magnitude (H, W) of the gradient of an RGB image's luminance [grey levels per px], by central differences."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dx = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    dy = cv2.Sobel(grey, cv2.CV_32F, 0, 1, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    magnitude: Float32Array = cv2.magnitude(dx, dy)
    return magnitude


def texture(gradient: Float32Array) -> Float32Array:
    """Mean of the gradient (H, W) over a square of TEXTURE_WINDOW: (H, W) [grey levels per px]."""
    mean: Float32Array = cv2.blur(gradient, (TEXTURE_WINDOW, TEXTURE_WINDOW), borderType=cv2.BORDER_REFLECT)
    return mean


def depth_edges(truth: Float32Array, valid: BoolArray) -> list[Edges]:
    """The depth edges along the rows, then along the columns, as their near and far pixels.

    There is an edge between two pixels of one row or column that are adjacent, both measured, and whose true depths have a
    ratio of EDGE_RATIO or more. Sparse lidar has few such pairs: look at the number of pixels before believing the errors.
    """
    found = []
    for axis in (1, 0):
        first, second = (slice(None),) * axis + (slice(None, -1),), (slice(None),) * axis + (slice(1, None),)
        at = np.argwhere(valid[first] & valid[second])
        other = at + (np.arange(2) == axis)
        a, b = truth[tuple(at.T)], truth[tuple(other.T)]
        edge = np.maximum(a, b) >= EDGE_RATIO * np.minimum(a, b)
        at, other, nearer = at[edge], other[edge], (a < b)[edge, None]
        found.append((tuple(np.where(nearer, at, other).T), tuple(np.where(nearer, other, at).T)))
    return found


def near(edges: list[Edges], shape: tuple[int, ...], reach: int = EDGE_REACH) -> BoolArray:
    """The pixels (H, W) within `reach` px (rows and columns) of a depth edge, whose own two pixels are the nearest."""
    beside = np.zeros(shape, np.uint8)
    for pixels in (pixels for edge in edges for pixels in edge):
        beside[pixels] = 1
    mask: BoolArray = cv2.dilate(beside, np.ones((2 * reach - 1, 2 * reach - 1), np.uint8)) > 0
    return mask


def edge_sharpness(depth: Float32Array, truth: Float32Array, edges: list[Edges], reach: int = EDGE_REACH) -> Float64Array:
    """How much of each true step the prediction makes from one pixel to the next: one value from 0 (none) to 1 per edge.

    The step of log depth between two adjacent pixels in the true edge's direction, over the true step, both clipped to it;
    the largest within `reach` px along the row or column counts, so that an edge may be displaced by that. A step that is
    spread evenly (in log depth) over w px scores 1 / w. The ratio is blind to one common factor on depth.
    """
    log = np.log(np.where(np.isfinite(depth) & (depth > 0), depth, np.nan), dtype=np.float64)
    found = []
    for near_pixels, far_pixels in edges:
        step = np.log(truth[far_pixels].astype(np.float64) / truth[near_pixels])
        shares = [_step(log, near_pixels, far_pixels, shift) / step for shift in range(-reach, reach + 1)]
        found.append(np.clip(np.fmax.reduce(shares), 0, 1))
    sharpness = np.concatenate(found)
    return sharpness[~np.isnan(sharpness)]


def flying_pixels(
    depth: Float32Array, truth: Float32Array, valid: BoolArray, near_edges: BoolArray, reach: int = EDGE_REACH
) -> tuple[BoolArray, BoolArray]:
    """Pixels that hang in the empty space between two surfaces, and those that could: (flying, candidates), each (H, W).

    Candidates are valid pixels of near_edges (see near()) whose own truth lies on the near or the far surface, which
    are the smallest and the largest true depth in the square of 2 reach + 1 px around it. One flies if its predicted depth
    is further than FLYING_MARGIN (relative) from both of them and between them. A depth that is wrong altogether can lie
    there too: compare rates of predictions that are equally exact away from edges.
    """
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    with np.errstate(over="ignore"):  # far from any truth
        low = cv2.erode(np.where(valid, truth, np.float32(np.inf)), square) * (1 + FLYING_MARGIN)
    high = cv2.dilate(np.where(valid, truth, np.float32(0)), square) * (1 - FLYING_MARGIN)
    candidates = valid & near_edges & (low < high) & ~((truth > low) & (truth < high))
    return candidates & (depth > low) & (depth < high), candidates


def _step(log: Float64Array, near_pixels: Pixels, far_pixels: Pixels, shift: int) -> Float64Array:
    """The predicted step of log depth across each edge, displaced by `shift` px towards the far side; NaN outside the image."""
    rows, columns = ([n + shift * (f - n), f + shift * (f - n)] for n, f in zip(near_pixels, far_pixels, strict=True))
    height, width = log.shape
    inside = np.all([(r >= 0) & (r < height) & (c >= 0) & (c < width) for r, c in zip(rows, columns, strict=True)], axis=0)
    a, b = (log[np.where(inside, r, 0), np.where(inside, c, 0)] for r, c in zip(rows, columns, strict=True))
    step: Float64Array = np.where(inside, b - a, np.nan)
    return step


EDGES, ELSEWHERE = f"within {EDGE_REACH} px of a depth edge", "away from depth edges"
MOVING, STILL = "moving objects", "what stands still"
GROUPS = (*depth_groups(), "textured", "texture-less", EDGES, ELSEWHERE, MOVING, STILL)
