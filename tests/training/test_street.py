"""The street world against closed forms: rays, shadows, two views of one scene, and the clip that ships."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from depth_ros.types import CameraModel, Distortion, InputError
from training.data.street import Rendering, Street, StreetConfig, kitti_camera, sheet
from training.data.street import __main__ as command
from training.data.street.cast import ELLIPSOID, FRUSTUM, GROUND, PART, cast
from training.data.street.light import CELL, CELLS_X, Light, lit_share, shadow_grid
from training.data.street.ride import CAR
from training.data.street.texture import FOLIAGE, PLAIN

CLIP = Path(__file__).resolve().parents[2] / "assets" / "street"
CAMERA = kitti_camera(208, 64)
LEVEL = StreetConfig(movers=0.0, ego_speed_cars=0.0, turns=0.0, sway=0.0)
STILL = StreetConfig(movers=0.0, ego_speed_cars=0.0, noise=0.0)


def pinhole(camera: CameraModel) -> tuple[int, int, float, float, float, float]:
    return camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy


def pixels(camera: CameraModel) -> tuple[np.ndarray, np.ndarray]:
    """Ray of every pixel (x, y at z = 1)."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy


def solid(shape: int, material: int = PLAIN, **values: float) -> np.ndarray:
    part = np.zeros(1, PART)
    defaults = {"z": 10.0, "cos": 1.0, "half_x": 1.0, "half_z": 1.0, "top_x": 1.0, "top_z": 1.0, "height": 4.0}
    for name, value in {**defaults, "shape": shape, "material": material, "mover": -1, **values}.items():
        part[name] = value
    return part


def eye(height: float) -> np.ndarray:
    pose = np.eye(4)
    pose[1, 3] = -height
    return pose


def sample(image: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear samples, and where the four neighbours exist."""
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    inside = (i >= 0) & (j >= 0) & (i < image.shape[1] - 1) & (j < image.shape[0] - 1)
    i, j = np.where(inside, i, 0), np.where(inside, j, 0)
    a, b = u - i, v - j
    if image.ndim == 3:
        a, b = a[..., None], b[..., None]
    low = image[j, i] * (1 - a) + image[j, i + 1] * a
    high = image[j + 1, i] * (1 - a) + image[j + 1, i + 1] * a
    return low * (1 - b) + high * b, inside


def project(depth: np.ndarray, world_T_target: np.ndarray, world_T_source: np.ndarray) -> tuple[np.ndarray, ...]:
    """Source pixel u, v and source depth of every target pixel."""
    x, y = pixels(CAMERA)
    points = np.stack([x * depth, y * depth, depth, np.ones_like(depth)], axis=-1)
    X, Y, Z, _ = np.moveaxis(points @ (np.linalg.inv(world_T_source) @ world_T_target).T, -1, 0)
    return CAMERA.fx * X / Z + CAMERA.cx, CAMERA.fy * Y / Z + CAMERA.cy, Z


def two_views(baseline: str, config: StreetConfig) -> tuple[Rendering, np.ndarray, Rendering, np.ndarray]:
    world = Street(11, config)
    pose = world.pose(5.0)
    if baseline == "stereo":
        other, t_s = pose.copy(), 5.0
        other[:3, 3] += 0.54 * pose[:3, 0]
    else:
        other, t_s = world.pose(5.1), 5.1
    return world.render(CAMERA, pose, 5.0), pose, world.render(CAMERA, other, t_s), other


@pytest.mark.parametrize("yaw", [0.0, math.pi / 2])
def test_a_box_and_a_ball_are_where_geometry_says(yaw: float) -> None:
    camera = CameraModel(101, 51, 100.0, 100.0, 50.0, 25.0)
    box = solid(FRUSTUM, cos=math.cos(yaw), sin=math.sin(yaw), half_x=2.0, half_z=1.0, top_x=2.0)
    depth, hit = cast(*pinhole(camera), eye(1.5), box)
    near, half_width = (9.0, 2.0) if yaw == 0.0 else (8.0, 1.0)
    u = np.arange(101)
    inside = np.abs(u - 50.0) < half_width / near * 100.0
    assert np.array_equal(hit[25] == 0, inside)
    assert depth[25, inside] == pytest.approx(near, abs=1e-9)

    depth, _ = cast(*pinhole(camera), eye(2.0), solid(ELLIPSOID, half_x=3.0, half_z=2.5))
    assert depth[25, 50] == pytest.approx(7.5, abs=1e-9)


def test_a_sloped_face_follows_its_plane() -> None:
    """A gable 4 m tall whose front leans back 1 m: at height h its front is at z = 9 + h / 4."""
    camera = CameraModel(21, 41, 50.0, 50.0, 10.0, 20.0)
    depth, hit = cast(*pinhole(camera), eye(2.0), solid(FRUSTUM, top_z=0.0))
    rows = np.flatnonzero(hit[:, 10] == 0)
    slope = (20.0 - rows) / 50.0  # height gained per metre of depth
    assert len(rows) > 10
    assert depth[rows, 10] == pytest.approx((9.0 + 2.0 / 4.0) / (1.0 - slope / 4.0), rel=1e-9)


def test_a_part_beside_the_camera_is_not_lost_at_the_near_plane() -> None:
    camera = CameraModel(101, 51, 50.0, 50.0, 50.0, 25.0)
    wall = solid(FRUSTUM, x=2.0, z=0.0, half_x=0.5, top_x=0.5, half_z=30.0, top_z=30.0)
    depth, hit = cast(*pinhole(camera), eye(1.5), wall)
    right = np.arange(55, 101)
    assert np.all(hit[25, right] == 0)
    assert depth[25, right] == pytest.approx(1.5 * 50.0 / (right - 50.0), rel=1e-9)


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 45.0), (90.0, 30.0), (225.0, 60.0)])
def test_a_shadow_is_as_long_as_the_sun_is_low(azimuth: float, elevation: float) -> None:
    """A thin 4 m pole throws 4 m / tan(elevation) of shadow, straight away from the sun."""
    a, e = math.radians(azimuth), math.radians(elevation)
    white = (1.0, 1.0, 1.0)
    light = Light(math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a), white, white, white, white, 0.0, 0.0, 1.0, 1)
    pole = solid(FRUSTUM, half_x=0.05, half_z=0.05, top_x=0.05, top_z=0.05)
    corner_x, corner_z = -0.5 * CELL * CELLS_X, -16.0
    grid = shadow_grid(pole, light, corner_x, corner_z)

    def sun_at(distance: float, aside: float = 0.0) -> float:
        x, z = -distance * math.sin(a) + aside * math.cos(a), 10.0 - distance * math.cos(a) - aside * math.sin(a)
        return lit_share(x, 0.0, z, GROUND, pole, light, *grid, corner_x, corner_z)[0]

    length = 4.0 / math.tan(e)
    assert [sun_at(d) for d in np.linspace(0.2, length - 0.1, 20)] == [0.0] * 20
    assert sun_at(length + 0.1) == sun_at(-0.3) == 1.0
    assert sun_at(length / 2, aside=0.3) == sun_at(length / 2, aside=-0.3) == 1.0


def test_leaves_let_some_sun_through() -> None:
    light = Light(0.0, 1.0, 0.0, (1.0,) * 3, (1.0,) * 3, (1.0,) * 3, (1.0,) * 3, 0.0, 0.0, 1.0, 1)
    crown = solid(ELLIPSOID, FOLIAGE, base=3.0, half_x=4.0, half_z=4.0, seed=5)
    corner = (-0.5 * CELL * CELLS_X, -16.0)
    grid = shadow_grid(crown, light, *corner)
    sun = [
        lit_share(x, 0.0, z, GROUND, crown, light, *grid, *corner)[0]
        for x in np.arange(-2, 2, 0.1)
        for z in np.arange(8, 12, 0.1)
    ]
    assert 0.02 < np.mean(sun) < 0.4


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_road_ahead_is_the_ground_plane(seed: int) -> None:
    world = Street(seed, LEVEL)
    view = world.render(CAMERA, world.pose(2.0), 2.0)
    x, y = pixels(CAMERA)
    ground = CAR.height / np.maximum(y, 1e-9)
    lane = (ground < 60.0) & (np.abs(x * ground) < 1.0)  # the ego lane holds nothing
    assert lane.sum() > 300
    assert view.depth[lane] == pytest.approx(ground[lane], rel=1e-6)
    assert np.all(view.depth <= np.where(y > 1e-9, ground * (1 + 1e-6), np.inf))
    assert not view.moving.any()


@pytest.mark.parametrize("baseline", ["motion", "stereo"])
def test_depth_of_two_views_agrees(baseline: str) -> None:
    """A ray cast from the second view through a point of the first meets it, or something before it, never anything behind."""
    first, pose, _, other = two_views(baseline, STILL)
    world, t_s = Street(11, STILL), 5.0 if baseline == "stereo" else 5.1
    seen = np.isfinite(first.depth)
    u, v, moved = project(np.where(seen, first.depth, 1.0).astype(np.float64), pose, other)
    inside = seen & (u > -0.5) & (v > -0.5) & (u < CAMERA.width - 0.5) & (v < CAMERA.height - 0.5)
    ratios = []
    for y, x in np.random.default_rng(1).permutation(np.argwhere(inside))[:150]:
        pixel = CameraModel(1, 1, CAMERA.fx, CAMERA.fy, CAMERA.cx - u[y, x], CAMERA.cy - v[y, x])
        ratios.append(world.render(pixel, other, t_s).depth[0, 0] / moved[y, x])
    assert max(ratios) < 1 + 1e-4
    assert np.mean(np.array(ratios) > 1 - 1e-4) > 0.9  # the rest is hidden from the second view
    if baseline == "stereo":
        column = np.arange(CAMERA.width)[None, :]
        assert (column - u)[seen] == pytest.approx((CAMERA.fx * 0.54 / first.depth)[seen], rel=1e-6)


@pytest.mark.parametrize("baseline", ["motion", "stereo"])
def test_the_photometric_error_is_least_at_the_true_depth(baseline: str) -> None:
    first, pose, second, other = two_views(baseline, STILL)
    near = first.depth < 80.0

    def error(factor: float) -> float:
        u, v, _ = project(np.where(near, first.depth, 1.0) * factor, pose, other)
        warped, inside = sample(second.image.astype(np.float64), u, v)
        return float(np.abs(warped - first.image)[near & inside].mean())

    truth = error(1.0)
    assert all(error(factor) > 1.05 * truth for factor in (0.8, 0.9, 1.1, 1.3))


def test_the_same_seed_gives_the_same_pixels() -> None:
    def image(seed: int, **config: object) -> np.ndarray:
        world = Street(seed, StreetConfig(**config))
        return world.render(CAMERA, world.pose(3.0), 3.0).image

    first = image(7)
    assert np.array_equal(first, image(7))
    for other in (image(8), image(7, textures="test")):
        assert np.abs(first.astype(int) - other).mean() > 10.0


def test_sensor_noise_has_the_stated_deviation_and_is_fresh_in_every_view() -> None:
    clean, noisy = Street(7, STILL), Street(7, StreetConfig(movers=0.0, ego_speed_cars=0.0, noise=4.0))
    images = []
    for t_s in (3.0, 3.1):
        pose = clean.pose(t_s)
        images.append(noisy.render(CAMERA, pose, t_s).image.astype(float) - clean.render(CAMERA, pose, t_s).image)
    middle = [np.abs(clean.render(CAMERA, clean.pose(t), t).image.astype(int) - 128) < 100 for t in (3.0, 3.1)]
    both = middle[0] & middle[1]
    assert images[0][middle[0]].std() == pytest.approx(4.0, rel=0.05)
    assert images[0][middle[0]].mean() == pytest.approx(0.0, abs=0.2)
    assert abs(np.corrcoef(images[0][both], images[1][both])[0, 1]) < 0.05


def test_a_car_at_ego_speed_keeps_its_place_in_the_image() -> None:
    world = Street(5, StreetConfig(movers=0.0, ego_speed_cars=1.0, turns=0.0, sway=0.0))
    first, second = (world.render(CAMERA, world.pose(t_s), t_s) for t_s in (4.0, 6.0))
    car = first.moving & second.moving
    assert car.sum() > 0.98 * (first.moving | second.moving).sum() > 20
    assert first.depth[car] == pytest.approx(second.depth[car], abs=1e-3)
    assert (
        np.mean(~np.isclose(first.depth, second.depth, rtol=0.01)[~car & np.isfinite(first.depth)]) > 0.2
    )  # the street moved on


def test_oncoming_cars_come_closer() -> None:
    world = Street(3, StreetConfig(movers=1.0, ego_speed_cars=0.0, turns=0.0, sway=0.0))
    pose = world.pose(2.0)
    first, second = (world.render(CAMERA, pose, t_s) for t_s in (2.0, 2.2))  # the camera stands, so only cars change
    assert first.moving.any()
    changed = first.depth != second.depth
    assert changed.any()
    assert not np.any(changed & ~first.moving & ~second.moving)


@pytest.mark.parametrize("seed", range(5))
def test_the_camera_never_runs_into_anything(seed: int) -> None:
    world, camera = Street(seed, StreetConfig(movers=1.0)), kitti_camera(104, 32)
    for t_s in np.linspace(0.0, 30.0, 16):
        view = world.render(camera, world.pose(t_s), t_s)
        assert view.depth.min() > 0.6
        assert np.isfinite(view.depth).mean() > 0.5


def test_errors_say_what_was_expected() -> None:
    world = Street(0)
    with pytest.raises(InputError, match="time 31 s is outside the street; expected 0 to 30"):
        world.pose(31)
    bent = CameraModel(8, 8, 5.0, 5.0, 4.0, 4.0, Distortion("plumb_bob", (0.1, 0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(InputError, match="without distortion"):
        world.render(bent, world.pose(1.0), 1.0)
    with pytest.raises(InputError, match="above the ground"):
        world.render(CAMERA, np.eye(4), 1.0)
    with pytest.raises(InputError, match=r"StreetConfig.movers is 1.5; expected a share"):
        StreetConfig(movers=1.5)
    with pytest.raises(InputError, match="'train' or 'test'"):
        StreetConfig(textures="other")


def test_the_clip_that_ships_is_what_the_street_renders(tmp_path: Path) -> None:
    calibration = yaml.safe_load((CLIP / "camera.yaml").read_text())
    size = (calibration["image_height"], calibration["image_width"])
    images, truths = sorted((CLIP / "image").iterdir()), sorted((CLIP / "depth").iterdir())
    assert len(images) == 60
    assert {path.stem for path in truths} == {path.stem for path in images[::5]}
    assert {cv2.imread(str(path)).shape[:2] for path in images} == {size}
    assert {cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape for path in truths} == {size}
    assert sum(path.stat().st_size for path in CLIP.rglob("*") if path.is_file()) < 3e6
    camera = kitti_camera(size[1], size[0])
    expected = [camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1]
    assert calibration["camera_matrix"]["data"] == pytest.approx(expected, abs=1e-5)

    sheet.write_clip(tmp_path, sheet.CLIP_SEED, frames=1)
    fresh, shipped = (cv2.imread(str(root / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED) for root in (tmp_path, CLIP))
    assert np.mean(np.abs(fresh.astype(int) - shipped) <= 1) > 0.999
    fresh, shipped = (cv2.imread(str(root / "image" / "000000.jpg")) for root in (tmp_path, CLIP))
    assert np.abs(fresh.astype(int) - shipped).mean() < 1.0


def test_the_sheet_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sheet, "SHEET", sheet.SHEET[:1])
    command.main(["--preview"])
    assert cv2.imread("out/street.png").shape == (128, 4 * 416, 3)
    with pytest.raises(OSError, match="cannot be written"):
        command.main(["--preview", "out/street.nothing"])
