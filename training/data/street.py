"""A procedural street with exact truth: image, depth, pose and moving objects, for pretraining, tests and the demo clip.

Nothing is loaded: houses, trees, parked and moving cars, sun, shadows, haze, camera sway and sensor noise are drawn from a
seed and ray-cast on the CPU. The same seed and configuration give the same pixels. World axes are x right, y down, z
forward [m] with the ground at y = 0; poses are world_T_camera, images RGB, depth in metres along the camera's +z.

    python -m training.data.street --preview streets.png        a contact sheet of several seeds
    python -m training.data.street --clip assets/street         the clip that ships with the demo
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.calibration import save_calibration
from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.data.street_cast import GROUND, cast
from training.data.street_objects import Scene
from training.data.street_scene import LANE, build_background, build_side, build_traffic, draw_light, draw_road
from training.data.street_shade import expose, shade
from training.data.street_texture import centre_line

CAMERA_HEIGHT = 1.65  # [m] above the ground, as on KITTI's car
DURATION_S = 30.0  # how long one street lasts
VIEW_M = 230.0  # parts beyond this are left out
CLIP_SEED = 4  # of the clip in assets/street
CLIP_FRAMES = 60
CLIP_RATE_HZ = 10.0
TRUTH_EVERY = 5  # frames of the clip
DEPTH_SCALE = 256.0  # of the clip's depth PNGs: value = depth [m] * 256, as KITTI stores it


def kitti_camera(width: int, height: int) -> CameraModel:
    """Return KITTI's colour camera (Geiger et al. 2013) as if its 1242x375 image were resized to width x height [px]."""
    return CameraModel(1242, 375, fx=721.5377, fy=721.5377, cx=609.5593, cy=172.854).resized(width, height)


@dataclass(frozen=True)
class StreetConfig:
    """What a street holds. Shares are probabilities, 0 to 1; the defaults are an ordinary street."""

    plain: float = 0.15  # share of house walls without any texture
    movers: float = 0.7  # density of moving cars
    ego_speed_cars: float = 0.1  # share of streets where a car leads at exactly the camera's speed
    noise: float = 2.0  # standard deviation of the sensor noise [grey levels]
    fog: float = 1.0  # scales the haze; 0 is clear air
    turns: float = 1.0  # scales the bends of the road; 0 is straight
    sway: float = 1.0  # scales the camera's sway; 0 is a perfectly level ride
    textures: Literal["train", "test"] = "train"  # the two families share no pattern and no wall colour

    def __post_init__(self) -> None:
        for name in ("plain", "movers", "ego_speed_cars"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"StreetConfig.{name} is {getattr(self, name)}; expected a share from 0 to 1")
        for name in ("noise", "fog", "turns", "sway"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InputError(f"StreetConfig.{name} is {getattr(self, name)}; expected 0 or more")
        if self.textures not in ("train", "test"):
            raise InputError(f"StreetConfig.textures is '{self.textures}'; expected 'train' or 'test'")


@dataclass(frozen=True)
class Rendering:
    """One view of a street with its exact truth."""

    image: UInt8Array  # (H, W, 3) RGB
    depth: Float32Array  # (H, W) [m] along +z, +inf is sky
    moving: NDArray[np.bool_]  # (H, W) pixels on moving vehicles


class Street:
    """A street that lasts DURATION_S, driven through at about 8 m/s. Immutable, and safe to render from several threads."""

    def __init__(self, seed: int, config: StreetConfig | None = None) -> None:
        self.seed, self.config = seed, config or StreetConfig()
        rng = np.random.default_rng([seed, 0 if self.config.textures == "train" else 1])
        scene = Scene(draw_road(rng, self.config.turns), draw_light(rng, self.config.fog))
        self.speed = float(rng.uniform(6.5, 9.5))  # [m/s]
        for side in (-1, 1):
            build_side(scene, rng, side, self.config.plain, self.config.textures)
        build_background(scene, rng, self.config.plain, self.config.textures)
        build_traffic(scene, rng, self.config.movers, self.config.ego_speed_cars, self.speed)
        self._phases = rng.uniform(0.0, 2 * math.pi, size=6)
        self._scene, self._parts = scene, scene.array()
        self._z = np.arange(-200.0, 800.0, 0.5)
        slope = np.array([centre_line(z, scene.road)[1] for z in self._z])
        step = np.sqrt(1.0 + slope**2) * 0.5
        self._arc = np.cumsum(step) - step[0]
        self._arc -= np.interp(0.0, self._z, self._arc)  # length of the road from z = 0

    def _ego_arc(self, t_s: float) -> float:
        return self.speed * t_s + 1.5 * math.sin(0.3 * t_s + self._phases[0])

    def _on_road(self, arc: float, lateral: float) -> tuple[float, float, float]:
        return self._scene.place(float(np.interp(arc, self._arc, self._z)), lateral)

    def pose(self, t_s: float) -> Float64Array:
        """Return world_T_camera (4, 4) at t_s [s]. Raises InputError outside 0 .. DURATION_S."""
        if not 0.0 <= t_s <= DURATION_S:
            raise InputError(f"time {t_s} s is outside the street; expected 0 to {DURATION_S} s")
        sway, p = self.config.sway, self._phases
        x, z, heading = self._on_road(self._ego_arc(t_s), LANE + sway * 0.15 * math.sin(0.4 * t_s + p[1]))
        yaw = heading + sway * math.radians(0.4) * math.sin(0.7 * t_s + p[2])
        pitch = sway * math.radians(0.35) * math.sin(5.1 * t_s + p[3])
        roll = sway * math.radians(0.3) * math.sin(3.7 * t_s + p[4])
        height = CAMERA_HEIGHT + sway * 0.015 * math.sin(6.3 * t_s + p[5])
        pose = np.eye(4)
        turn, _ = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))
        nod, _ = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))
        tilt, _ = cv2.Rodrigues(np.array([0.0, 0.0, roll]))
        pose[:3, :3] = turn @ nod @ tilt
        pose[:3, 3] = x, -height, z
        return pose

    def render(self, camera: CameraModel, world_T_camera: Float64Array, t_s: float) -> Rendering:
        """Return what a pinhole camera sees at t_s [s]. Raises InputError if the camera is distorted or below the ground."""
        if camera.distortion is not None:
            raise InputError("the street renders pinhole cameras; expected a camera without distortion")
        if world_T_camera.shape != (4, 4) or world_T_camera[1, 3] >= 0.0:
            raise InputError("world_T_camera is not a (4, 4) pose above the ground (y < 0)")
        pose = np.ascontiguousarray(world_T_camera, np.float64)
        parts = self._parts_at(t_s, pose)
        depth, hit = cast(*_pinhole(camera), pose, parts)
        fine = camera.resized(2 * camera.width, 2 * camera.height)  # 2x2 rays per pixel
        radiance = shade(*_pinhole(fine), pose, parts, *cast(*_pinhole(fine), pose, parts), self._scene.light, self._scene.road)
        frame = hash((self.seed, *np.round(pose[:3, 3] * 1e6).astype(int).tolist(), round(t_s * 1e6))) & 0x7FFFFFFF
        image = expose(radiance, self._scene.light, self.config.noise, frame)
        moving = (hit > GROUND) & (parts["mover"][np.maximum(hit, 0)] >= 0)
        return Rendering(image, depth.astype(np.float32), moving)

    def _parts_at(self, t_s: float, pose: Float64Array) -> NDArray[np.void]:
        """Return the parts within view at t_s, the moving vehicles at their places."""
        places = np.array([self._vehicle_place(i, t_s) for i in range(len(self._scene.vehicles))]).reshape(-1, 3)
        parts = self._parts.copy()
        moving = parts["mover"] >= 0
        x, z, yaw = places[parts["mover"][moving]].T
        parts["x"][moving] = x + parts["along"][moving] * np.sin(yaw)
        parts["z"][moving] = z + parts["along"][moving] * np.cos(yaw)
        parts["cos"][moving], parts["sin"][moving] = np.cos(yaw), np.sin(yaw)
        dx, dz = parts["x"] - pose[0, 3], parts["z"] - pose[2, 3]
        forward = dx * pose[0, 2] + dz * pose[2, 2]
        return parts[(np.hypot(dx, dz) < VIEW_M) & (forward > -30.0)]

    def _vehicle_place(self, index: int, t_s: float) -> tuple[float, float, float]:
        vehicle = self._scene.vehicles[index]
        arc = vehicle.start + (self._ego_arc(t_s) if vehicle.with_ego else vehicle.speed * t_s)
        x, z, heading = self._on_road(arc, vehicle.lane)
        return x, z, heading + (math.pi if vehicle.lane < 0 else 0.0)


def _pinhole(camera: CameraModel) -> tuple[int, int, float, float, float, float]:
    return camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy


def write_preview(path: Path, seeds: range, config: StreetConfig) -> None:
    """Write a contact sheet: one row per seed, two times, image beside inverse depth."""
    camera = kitti_camera(416, 128)
    rows = []
    for seed in seeds:
        street, row = Street(seed, config), []
        for t_s in (3.0, 12.0):
            view = street.render(camera, street.pose(t_s), t_s)
            near = np.clip(255.0 * 4.0 / np.maximum(view.depth, 4.0), 0, 255).astype(np.uint8)
            row += [view.image[..., ::-1], cv2.applyColorMap(near, cv2.COLORMAP_TURBO)]
        rows.append(np.hstack(row))
    write_image(path, np.vstack(rows))


def write_image(path: Path, image: NDArray[np.generic], *parameters: int) -> None:
    """Write a BGR or 16-bit image. Raises OSError if that fails."""
    if not cv2.imwrite(str(path), image, parameters):
        raise OSError(f"{path}: cannot be written; name a file that ends in .png or .jpg in a writable folder")


def write_clip(folder: Path, seed: int, frames: int = CLIP_FRAMES) -> None:
    """Write the demo clip: folder/image/*.jpg, folder/depth/*.png (16 bit, metres * 256, 0 = none) and folder/camera.yaml."""
    street, camera = Street(seed, StreetConfig(textures="test")), kitti_camera(640, 192)
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        t_s = 1.0 + index / CLIP_RATE_HZ
        view = street.render(camera, street.pose(t_s), t_s)
        write_image(folder / "image" / f"{index:06d}.jpg", view.image[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 88)
        if index % TRUTH_EVERY == 0:
            truth = np.where(view.depth < 65535 / DEPTH_SCALE, np.round(view.depth * DEPTH_SCALE), 0).astype(np.uint16)
            write_image(folder / "depth" / f"{index:06d}.png", truth, cv2.IMWRITE_PNG_COMPRESSION, 9)
    save_calibration(camera, folder / "camera.yaml", "street")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.data.street", description=(__doc__ or "").split("\n\n    ")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--preview", type=Path, metavar="PNG", help="write a contact sheet of eight seeds: image | inverse depth")
    what.add_argument("--clip", type=Path, metavar="DIR", help="write a clip: images at 10 Hz, depth truth, camera.yaml")
    parser.add_argument(
        "--seed", type=int, help=f"seed of the sheet's first street (default: 0) or of the clip (default: {CLIP_SEED})"
    )
    parser.add_argument(
        "--textures", choices=("train", "test"), default="train", help="texture family of the sheet (a clip: test)"
    )
    options = parser.parse_args(arguments)
    if options.preview:
        first = options.seed or 0
        write_preview(options.preview, range(first, first + 8), StreetConfig(textures=options.textures))
    else:
        write_clip(options.clip, CLIP_SEED if options.seed is None else options.seed)


if __name__ == "__main__":
    main()
