"""The multi-view check on scenes whose depth is exact in both views: what is static is kept, what moved is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.multi_view import FACTOR, LEAST, STRICT, consistent, round_trip_errors

RULES = ("both", "depth", "strict")
HEIGHT, WIDTH = 48, 96
K = np.array([[90.0, 0.0, 46.0], [0.0, 85.0, 22.0], [0.0, 0.0, 1.0]])
OTHER_K = np.array([[70.0, 0.0, 50.0], [0.0, 72.0, 25.0], [0.0, 0.0, 1.0]])
GROUND_M, WALL_M = 1.5, 12.0  # below the first camera, and ahead of it
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Board:
    """An upright rectangle that faces the first camera: centre, distance and half extents [m]."""

    x: float = 0.6
    y: float = 0.3
    z: float = 5.0
    half_width: float = 0.6
    half_height: float = 0.5


BOARD = Board()


def look(rays: Array, origin: Array, board: Board) -> tuple[Array, NDArray[np.int64]]:
    """Depth along each ray (N, 3), whose own depth is 1, from `origin`, and what it meets: 0 wall, 1 ground, 2 board."""
    with np.errstate(divide="ignore", invalid="ignore"):
        wall = (WALL_M - origin[2]) / rays[:, 2]
        ground = (GROUND_M - origin[1]) / rays[:, 1]
        near = (board.z - origin[2]) / rays[:, 2]
    met = origin + near[:, None] * rays
    on_board = (abs(met[:, 0] - board.x) <= board.half_width) & (abs(met[:, 1] - board.y) <= board.half_height) & (near > 0)
    distances = np.stack([wall, np.where(ground > 0, ground, np.inf), np.where(on_board, near, np.inf)])
    return distances.min(axis=0), distances.argmin(axis=0)


def rays_of(pixels: Array, camera: Array) -> Array:
    """Directions (N, 3) of depth 1 through pixels (N, 2)."""
    return np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(camera).T


def grid() -> Array:
    """All pixels (H W, 2), row by row."""
    return np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1).reshape(-1, 2).astype(float)


def render(camera: Array, world_T_camera: Array, board: Board) -> tuple[Array, NDArray[np.int64]]:
    """Depth (H, W) [m] and what each pixel shows."""
    rays = rays_of(grid(), camera) @ world_T_camera[:3, :3].T
    depth, what = look(rays, world_T_camera[:3, 3], board)
    return depth.reshape(HEIGHT, WIDTH), what.reshape(HEIGHT, WIDTH)


def pose(turn: tuple[float, float, float], shift: tuple[float, float, float]) -> Array:
    """world_T_camera of a rotation vector [rad] and a place [m]."""
    world_T_camera = np.eye(4)
    world_T_camera[:3, :3], world_T_camera[:3, 3] = cv2.Rodrigues(np.array(turn, dtype=float))[0], shift
    return world_T_camera


MOTIONS = {
    "to the right": pose((0, 0, 0), (0.54, 0, 0)),
    "forward": pose((0, 0, 0), (0, 0, 0.8)),
    "backward": pose((0, 0, 0), (0, 0, -0.8)),
    "turning": pose((0.01, 0.03, -0.02), (0.1, -0.05, 0.5)),
}


SMALL = Board(half_width=0.3, half_height=0.3)


@dataclass(frozen=True)
class Pair:
    """Exact depths of two views (H, W) [m], what they show, and the source's place in the target's world."""

    target: Array
    source: Array
    target_shows: NDArray[np.int64]
    source_shows: NDArray[np.int64]
    world_T_source: Array
    board: Board  # as the source sees it

    def errors(self) -> tuple[Tensor, Tensor]:
        depths = (torch.from_numpy(d).float()[None, None] for d in (self.target, self.source))
        matrices = (torch.from_numpy(m).float()[None] for m in (K, OTHER_K, np.linalg.inv(self.world_T_source)))
        return round_trip_errors(*depths, *matrices)

    def kept(self, rule: str) -> NDArray[np.bool_]:
        return consistent(*self.errors(), rule)[0, 0].numpy()

    def sight(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Per target pixel: whether the source's image holds it; whether nothing hides it; whether it is clear of edges.

        A ray from the source straight to the point tells, not any depth map. Clear of edges: in the source it lies between four
        pixels, and they show one surface, so that depth between them means something.
        """
        points = (rays_of(grid(), K) * self.target.reshape(-1, 1)) - self.world_T_source[:3, 3]
        local = points @ self.world_T_source[:3, :3]
        pixels = (local / local[:, 2:]) @ OTHER_K[:2].T
        inside = (local[:, 2] > 0) & (pixels > -0.5).all(1) & (pixels < [WIDTH - 0.5, HEIGHT - 0.5]).all(1)
        between = (pixels > -1e-9).all(1) & (pixels < np.array([WIDTH - 1, HEIGHT - 1]) + 1e-9).all(1)
        seen, _ = look(points / local[:, 2:], self.world_T_source[:3, 3], self.board)
        near = np.clip(np.floor(np.nan_to_num(pixels)), 0, [WIDTH - 2, HEIGHT - 2]).astype(int)
        around = [self.source_shows[near[:, 1] + row, near[:, 0] + column] for row in (0, 1) for column in (0, 1)]
        shapes = inside, abs(seen - local[:, 2]) < 1e-4 * seen, between & (np.ptp(around, axis=0) == 0)
        return tuple(shape.reshape(HEIGHT, WIDTH) for shape in shapes)


def pair_of(world_T_source: Array, before: Board = BOARD, after: Board = BOARD) -> Pair:
    target, target_shows = render(K, np.eye(4), before)
    source, source_shows = render(OTHER_K, world_T_source, after)
    return Pair(target, source, target_shows, source_shows, world_T_source, after)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("motion", MOTIONS)
def test_all_that_both_views_see_of_a_static_scene_is_kept(motion: str, rule: str) -> None:
    pair = pair_of(MOTIONS[motion])
    inside, visible, clear = pair.sight()
    kept = pair.kept(rule)
    due = inside & visible & clear
    assert {int(what) for what in pair.target_shows[due]} == {0, 1, 2}
    assert due.mean() > 0.6
    assert (~kept[due]).sum() == 0
    assert not kept[~inside].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("motion", ["to the right", "turning"])
def test_what_the_board_hides_from_the_source_is_dropped(motion: str, rule: str) -> None:
    pair = pair_of(MOTIONS[motion])
    inside, visible, clear = pair.sight()
    hidden = inside & ~visible & clear
    assert hidden.sum() > 10
    assert not pair.kept(rule)[hidden].any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "change", [{"z": 4.2}, {"x": -1.0}, {"z": 6.5, "x": 0.9}], ids=["comes nearer", "steps aside", "drives off"]
)
@pytest.mark.parametrize("motion", MOTIONS)
def test_an_object_that_moved_is_dropped_and_the_rest_is_kept(motion: str, change: dict[str, float], rule: str) -> None:
    pair = pair_of(MOTIONS[motion], SMALL, replace(SMALL, **change))
    inside, visible, clear = pair.sight()
    kept, moved = pair.kept(rule), pair.target_shows == 2
    assert (moved & clear).sum() > 50
    assert not kept[moved & clear].any()
    static = inside & visible & clear & ~moved
    assert static.mean() > 0.5
    assert kept[static].all()


def test_errors_are_those_of_the_round_trip_written_out() -> None:
    """Pixel by pixel: out with the target's depth, back with the inverse depth that lies between the source's four pixels."""
    pair = pair_of(MOTIONS["turning"], after=Board(z=4.6, x=0.7))
    moved, change = (error[0, 0].numpy() for error in pair.errors())
    source_T_target = np.linalg.inv(pair.world_T_source)
    rng, compared = np.random.default_rng(4), 0
    for v, u in zip(rng.integers(0, HEIGHT, 300), rng.integers(0, WIDTH, 300), strict=True):
        depth = pair.target[v, u]
        there = source_T_target @ np.append(np.linalg.inv(K) @ [u, v, 1] * depth, 1)
        x, y = (OTHER_K @ there[:3])[:2] / there[2]
        if not (0.01 < x < WIDTH - 1.01 and 0.01 < y < HEIGHT - 1.01):
            continue
        left, top = math.floor(x), math.floor(y)
        inverse = 0.0
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            inverse += (1 - abs(x - column)) * (1 - abs(y - row)) / pair.source[row, column]
        back = pair.world_T_source @ np.append(np.linalg.inv(OTHER_K) @ [x, y, 1] / inverse, 1)
        pixel = (K @ back[:3])[:2] / back[2]
        assert moved[v, u] == pytest.approx(math.hypot(pixel[0] - u, pixel[1] - v), abs=1e-3, rel=1e-3)
        assert change[v, u] == pytest.approx(abs(back[2] - depth) / depth, abs=1e-5, rel=1e-3)
        compared += 1
    assert compared > 150


def test_depth_that_is_wrong_by_a_factor_moves_pixels_as_parallax_says() -> None:
    """A wall at 10 m, 0.5 m aside, fx 90: the source says 8 m, which is fx b (1/8 - 1/10) px and a fifth away."""
    source_T_target = torch.eye(4)[None].clone()
    source_T_target[0, 0, 3] = -0.5
    camera = torch.from_numpy(K).float()[None]
    wall = torch.full((1, 1, HEIGHT, WIDTH), 10.0)
    moved, change = round_trip_errors(wall, 0.8 * wall, camera, camera, source_T_target)
    seen = moved.isfinite()
    assert torch.equal(seen, change.isfinite())
    assert seen.sum() == HEIGHT * (WIDTH - 5)  # 4.5 px of the left border lie outside the source
    assert moved[seen].numpy() == pytest.approx(90 * 0.5 * (1 / 8 - 1 / 10), abs=1e-3)
    assert change[seen].numpy() == pytest.approx(0.2, abs=1e-4)


def test_what_lies_behind_either_camera_is_not_seen() -> None:
    """0.8 m forward, what was 0.5 m ahead is behind; 0.8 m backward, a source that says 0.5 m puts it behind the target."""
    camera = torch.from_numpy(K).float()[None]
    near, far = torch.full((1, 1, HEIGHT, WIDTH), 0.5), torch.full((1, 1, HEIGHT, WIDTH), 5.0)
    for shift, target, source in ((-0.8, near, far), (0.8, far, near)):
        source_T_target = torch.eye(4)[None].clone()
        source_T_target[0, 2, 3] = shift
        moved, change = round_trip_errors(target, source, camera, camera, source_T_target)
        assert moved.isinf().all()
        assert change.isinf().all()
        assert not any(consistent(moved, change, rule).any() for rule in RULES)


@pytest.mark.parametrize(("columns", "caught"), [(15, True), (30, False)])
def test_a_mean_does_not_catch_what_fills_a_quarter_of_the_image(columns: int, caught: bool) -> None:
    """Of 96 columns all equally wrong: 4 times their share of the image is the limit over their error. The strict rule does."""
    change = torch.zeros(1, 1, HEIGHT, WIDTH)
    change[..., :columns] = 0.3
    for rule, expected in (("depth", caught), ("both", caught), ("strict", True)):
        kept = consistent(torch.zeros_like(change), change, rule)
        assert kept[..., :columns].any().item() is not expected
        assert kept[..., columns:].all()


def errors(*values: float) -> Tensor:
    """Of an image of one row."""
    return torch.tensor(values)[None, None, None]


def test_the_limits_are_four_times_the_mean_of_what_is_seen() -> None:
    """Ten pixels, one of them unseen; mean depth error (0.3 + 8 * 0.01) / 9, mean distance (8 + 8 * 0.5) / 9."""
    change = errors(0.3, *[0.01] * 8, math.inf)
    moved = errors(*[0.5] * 8, 8.0, math.inf)
    assert FACTOR * 0.38 / 9 < 0.3
    assert consistent(moved, change, "depth").flatten().tolist() == [False, *[True] * 8, False]
    assert consistent(moved, change, "both").flatten().tolist() == [False, *[True] * 7, False, False]
    assert consistent(moved, change, "strict").flatten().tolist() == [False] * 10  # 0.01 is not below 1 %
    assert consistent(moved, 0.9 * change, "strict").flatten().tolist() == [False, *[True] * 7, False, False]


def test_a_limit_is_of_its_own_image() -> None:
    good, bad = errors(*[0.002] * 7, 0.1), errors(*[0.2] * 7, 0.9)
    together = consistent(torch.zeros(2, 1, 1, 8), torch.cat([good, bad]), "depth")
    assert together[0].flatten().tolist() == [True] * 7 + [False]
    assert together[1].all()


def test_where_nothing_is_wrong_rounding_errors_are_kept() -> None:
    """One pixel a hundred times as wrong as the rest is no object, if that is a thousandth of a pixel."""
    moved, change = errors(*[1e-5] * 99, 1e-3), errors(*[1e-7] * 99, 1e-5)
    assert consistent(moved, change, "both").all()
    assert consistent(errors(*[0.0] * 99, 1.1 * LEAST[0]), torch.zeros(1, 1, 1, 100), "both").sum() == 99
    assert consistent(torch.zeros(1, 1, 1, 100), errors(*[0.0] * 99, 1.1 * LEAST[1]), "both").sum() == 99
    assert STRICT > LEAST


def test_nothing_seen_is_nothing_kept() -> None:
    unseen = torch.full((2, 1, 3, 4), math.inf)
    assert not any(consistent(unseen, unseen, rule).any() for rule in RULES)
