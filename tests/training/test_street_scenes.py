"""Rooms, plain grounds, traffic, weather and light of the procedural worlds, against geometry and simple physics."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest

from depth_ros.types import CameraModel, InputError
from training.data.street import Rendering, Street, StreetConfig, kitti_camera
from training.data.street.light import lamp_light
from training.data.street.room import DOOR_WIDTH, draw_zones, walk
from training.data.street.texture import BARE, PAINT

WIDE = CameraModel(96, 64, 60.0, 60.0, 47.5, 31.5)
CAMERA = kitti_camera(208, 64)


def look(t_s: float, seed: int = 3, camera: CameraModel = WIDE, **config: object) -> Rendering:
    world = Street(seed, StreetConfig(**config))
    return world.render(camera, world.pose(t_s), t_s)


def points(camera: CameraModel, pose: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """World points (H, W, 3) of a depth image."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, float)], -1)
    return (rays * depth[..., None]) @ pose[:3, :3].T + pose[:3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_a_walk_through_rooms_sees_walls_floor_and_ceiling_and_touches_none(seed: int) -> None:
    world, nearest, all_depths, heights = Street(seed, StreetConfig(scene="room")), np.inf, [], []
    for t_s in np.linspace(0.0, 30.0, 6):
        pose = world.pose(t_s)
        view = world.render(WIDE, pose, t_s)
        nearest = min(nearest, float(view.depth.min()))
        all_depths.append(view.depth)
        heights.append(-points(WIDE, pose, view.depth)[..., 1])
        assert not view.moving.any()
    depth, height = np.stack(all_depths), np.stack(heights)
    assert nearest > 0.2
    assert np.isfinite(depth).all()  # the rooms are closed
    assert np.mean((depth > 0.3) & (depth < 15.0)) > 0.95
    assert height.min() > -1e-3  # the floor is at 0
    assert 2.3 < height.max() < 3.2  # nothing is above the ceiling


@pytest.mark.parametrize("seed", range(20))
def test_the_walk_goes_straight_through_the_middle_of_every_door(seed: int) -> None:
    zones = draw_zones(np.random.default_rng(seed))
    course = walk(zones)
    for zone in zones:
        for z, door in ((zone.z0, zone.door0), (zone.z1, zone.door1)):
            for step in (-0.2, 0.0, 0.2):
                x, slope = course(z + step)
                assert abs(x - door) < DOOR_WIDTH / 4
                assert slope == pytest.approx(0.0, abs=1e-9)
        inside = [course(z)[0] for z in np.linspace(zone.z0, zone.z1, 20)]
        assert zone.x0 + 0.5 < min(inside)
        assert max(inside) < zone.x1 - 0.5
        slopes = [course(z)[1] for z in np.linspace(zone.z0 + 0.5, zone.z1 - 0.5, 9)]
        steps = [(course(z + 1e-5)[0] - course(z - 1e-5)[0]) / 2e-5 for z in np.linspace(zone.z0 + 0.5, zone.z1 - 0.5, 9)]
        assert slopes == pytest.approx(steps, abs=1e-6)


@pytest.mark.parametrize("scene", ["room", "ground"])
def test_the_two_texture_families_and_two_seeds_differ(scene: str) -> None:
    first = look(3.0, scene=scene).image.astype(int)
    assert np.array_equal(first, look(3.0, scene=scene).image)
    for other in (look(3.0, seed=4, scene=scene), look(3.0, scene=scene, textures="test")):
        assert np.abs(first - other.image).mean() > 8.0


def test_plain_surfaces_are_where_they_are_said_to_be() -> None:
    """Every wall is plain at 1 and none at 0; and what is plain is smooth, away from its outline and shadows."""
    share = {plain: np.mean([look(t, scene="room", plain=plain).plain.mean() for t in (2.0, 9.0)]) for plain in (0.0, 1.0)}
    assert share[1.0] > 0.5
    assert share[0.0] < 0.25  # ceilings
    assert not look(5.0, plain=0.0).plain.any()

    view = look(2.0, scene="room", plain=0.5, noise=0.0, seed=5)
    bend = np.abs(np.diff(view.image.astype(int), n=2, axis=1)).max(-1)  # light may fade, in steps of a level
    inside = view.plain[:, 2:] & view.plain[:, 1:-1] & view.plain[:, :-2]
    assert inside.mean() > 0.1
    assert np.mean(bend[inside] > 2) < 0.1
    textured = ~(view.plain[:, 2:] | view.plain[:, 1:-1] | view.plain[:, :-2])
    assert np.mean(bend[textured] > 2) > 0.4


def test_a_plain_ground_is_a_plane_without_texture() -> None:
    config = {"scene": "ground", "noise": 0.0, "sway": 0.0, "camera": CAMERA, "seed": 2}
    view, world = look(4.0, **config), Street(2, StreetConfig(scene="ground", sway=0.0))
    assert world.scene.road.kind == BARE
    height = -world.pose(4.0)[1, 3]
    rows = np.flatnonzero(np.arange(64) > CAMERA.cy + 1)
    expected = height * CAMERA.fy / (rows - CAMERA.cy)
    ground = view.plain[rows] & (np.abs(view.depth[rows] / expected[:, None] - 1) < 1e-5)
    assert ground.mean() > 0.8
    assert np.array_equal(ground, view.plain[rows])  # nothing else is plain on this ground
    step = np.abs(np.diff(view.image[rows].astype(int), axis=1)).max(-1)
    assert np.mean(step[ground[:, 1:] & ground[:, :-1]] > 2) < 0.05  # but for the outlines of shadows


@pytest.mark.parametrize("seed", range(4))
def test_nothing_stands_in_the_way_on_a_plain_ground(seed: int) -> None:
    world = Street(seed, StreetConfig(scene="ground"))
    for t_s in np.linspace(0.0, 30.0, 11):
        assert world.render(kitti_camera(52, 16), world.pose(t_s), t_s).depth.min() > 0.5


def footprints(parts: np.ndarray) -> list[np.ndarray]:
    """Corners (4, 2) of car bodies, in order around them."""
    along = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
    found = []
    for p in parts:
        x, z = (along * [p["half_x"], p["half_z"]]).T
        found.append(np.stack([p["x"] + x * p["cos"] + z * p["sin"], p["z"] - x * p["sin"] + z * p["cos"]], -1))
    return found


def overlap(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two convex polygons meet: no edge of either separates them."""
    for corners in (a, b):
        for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            normal = np.array([end[1] - start[1], start[0] - end[0]])
            if (a @ normal).max() < (b @ normal).min() or (b @ normal).max() < (a @ normal).min():
                return False
    return True


def test_overlap_is_seen() -> None:
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    turned = (square - 0.5) @ np.array([[1.0, 1.0], [-1.0, 1.0]]) / math.sqrt(2) + 0.5  # reaches 1 / sqrt(2) from its middle
    shift = np.array([1.0, 0.0])
    assert overlap(square, square + 0.9)
    assert overlap(square, turned + 1.15 * shift)
    assert not overlap(square, square + 1.1 * shift)
    assert not overlap(square, turned + 1.25 * shift)
    assert not overlap(square, turned + 0.9)  # though their bounding boxes meet


@pytest.mark.parametrize("seed", range(5))
def test_cars_meet_neither_each_other_nor_parked_ones_and_keep_to_the_road(seed: int) -> None:
    world = Street(seed, StreetConfig(movers=1.0, ego_speed_cars=0.3))
    for t_s in np.linspace(0.0, 30.0, 7):
        parts = world.parts_at(t_s, world.pose(t_s))
        bodies = parts[parts["material"] == PAINT]
        moving = bodies["mover"] >= 0
        shapes = footprints(bodies)
        for i, j in combinations(range(len(shapes)), 2):
            if (moving[i] or moving[j]) and math.hypot(*(bodies[n][i] - bodies[n][j] for n in "xz")) < 8.0:
                assert not overlap(shapes[i], shapes[j])
        for corners in (shapes[i] for i in np.flatnonzero(moving)):
            for x, z in corners:
                centre, slope = world.ride.course(z)
                assert abs(x - centre) / math.hypot(1.0, slope) < world.scene.road.half_width


def test_a_lamp_falls_off_with_the_square_of_its_distance() -> None:
    lamps = np.array([[0.0, 4.0, 0.0, 9.0]])
    assert lamp_light(0.0, 0.0, 0.0, 0.0, 1.0, 0.0, lamps) == pytest.approx(9.0 / (16.0 + 0.3))
    assert lamp_light(3.0, 0.0, 0.0, 0.0, 1.0, 0.0, lamps) == pytest.approx(9.0 * 0.8 / (25.0 + 0.3))  # 4 up, 5 away
    assert lamp_light(0.0, 0.0, 0.0, 0.0, -1.0, 0.0, lamps) == 0.0  # behind the surface
    assert lamp_light(0.0, 0.0, 31.0, 0.0, 1.0, 0.0, lamps) == 0.0  # out of reach


@pytest.mark.parametrize("change", [{"rain": 1.0}, {"snow": 1.0}, {"light": 0.0}, {"fog": 20.0}, {"exposure": 2.0}])
def test_weather_changes_the_picture_and_not_the_world(change: dict[str, float]) -> None:
    clear, other = look(3.0, camera=CAMERA), look(3.0, camera=CAMERA, **change)
    assert np.array_equal(clear.depth, other.depth)
    assert np.array_equal(clear.moving, other.moving)
    assert np.array_equal(clear.plain, other.plain)
    assert np.abs(clear.image.astype(int) - other.image).mean() > 5.0


def test_weather_does_what_its_name_says() -> None:
    still = {"camera": CAMERA, "noise": 0.0, "fog": 0.0}
    clear = look(3.0, **still)
    mean = {light: look(3.0, light=light, **still).image.mean() for light in (1.0, 0.6, 0.45)}
    assert mean[1.0] > mean[0.6] + 5.0 > mean[0.45] + 8.0
    assert look(3.0, exposure=1.5, **still).image.mean() > clear.image.mean() + 10.0
    near = (clear.depth < 12.0) & (np.arange(64)[:, None] > 45)  # the road before the car
    assert look(3.0, snow=1.0, **still).image[near].mean() > clear.image[near].mean() + 40.0
    sky = np.isinf(look(3.0, **still).depth)
    assert look(3.0, rain=1.0, **still).image[sky].std(axis=-1).mean() < 3.0  # the sky is grey
    far = np.isfinite(clear.depth) & (clear.depth > 60.0)
    assert clear.image[far].std() > 1.5 * look(3.0, fog=0.0, snow=1.0, camera=CAMERA, noise=0.0).image[far].std()


def test_drops_are_fresh_in_every_view() -> None:
    """Standing still in the rain, two moments differ more than they do in clear air."""
    world, clear = (Street(3, StreetConfig(movers=0.0, ego_speed_cars=0.0, noise=0.0, rain=rain)) for rain in (1.0, 0.0))
    pose = world.pose(3.0)
    moved = [
        np.abs(w.render(CAMERA, pose, 3.0).image.astype(int) - w.render(CAMERA, pose, 3.1).image).max(-1) for w in (world, clear)
    ]
    assert 0.01 < np.mean(moved[0] > 10) < 0.5
    assert np.all(moved[1] == 0)


def test_rooms_have_no_weather() -> None:
    assert np.array_equal(look(3.0, scene="room").image, look(3.0, scene="room", rain=1.0, snow=1.0, fog=5.0).image)


FINGERPRINT = """
import hashlib, numpy as np
from training.data.street import Street, StreetConfig
seen = hashlib.sha256()
for scene in ("street", "room", "ground"):
    world = Street(6, StreetConfig(scene=scene, light=0.2))
    pose = world.pose(4.0)
    seen.update(world.parts_at(4.0, pose).tobytes() + pose.tobytes() + world.light_at(pose).lamps.tobytes())
    seen.update(repr((world.frame(pose, 4.0), world.scene.light.sun, world.scene.road.seed)).encode())
print(seen.hexdigest())
"""


def test_worlds_are_the_same_in_every_process() -> None:
    """Parts, pose, lamps and the seed of the noise: all that the compiled kernels are given."""
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    running = [
        subprocess.Popen([sys.executable, "-c", FINGERPRINT], env=e, stdout=subprocess.PIPE, text=True) for e in environments
    ]
    first, second = (process.communicate(timeout=120)[0].strip() for process in running)
    assert first == second
    assert len(first) == len(hashlib.sha256().hexdigest())


def test_scenes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match=r"StreetConfig\.scene is 'lake'; expected one of street, room, ground"):
        StreetConfig(scene="lake")
    with pytest.raises(InputError, match=r"StreetConfig\.light is 1.5; expected a share"):
        StreetConfig(light=1.5)
