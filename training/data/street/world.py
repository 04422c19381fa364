"""A world and its pictures: a street, a row of rooms or a wide plain ground.

Nothing is loaded, everything is drawn from a seed and ray-cast on the CPU (street.twin casts the same worlds on a GPU). The
same seed and configuration give the same pixels. World axes are x right, y down, z forward [m] with the ground at y = 0; poses
are world_T_camera, images RGB, depth in metres along the camera's +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from depth_ros.types import CameraModel, Float32Array, Float64Array, InputError, UInt8Array
from training.data.street.cast import GROUND, cast
from training.data.street.config import StreetConfig
from training.data.street.ground import build_ground
from training.data.street.light import Light
from training.data.street.ride import CAR
from training.data.street.room import build_room
from training.data.street.scene import END, build_street
from training.data.street.shade import expose, shade
from training.data.street.texture import BARE, PLAIN
from training.data.street.weather import add_drops, lamps_at, noise_gain

CAMERA_HEIGHT = CAR.height  # [m] above the ground, on streets
VIEW_M = 230.0  # parts beyond this are left out
BUILDERS = {"street": build_street, "room": build_room, "ground": build_ground}


def kitti_camera(width: int, height: int) -> CameraModel:
    """Return KITTI's colour camera (Geiger et al. 2013) as if its 1242x375 image were resized to width x height [px]."""
    return CameraModel(1242, 375, fx=721.5377, fy=721.5377, cx=609.5593, cy=172.854).resized(width, height)


@dataclass(frozen=True)
class Rendering:
    """One view of a world with its exact truth."""

    image: UInt8Array  # (H, W, 3) RGB
    depth: Float32Array  # (H, W) [m] along +z, +inf is sky
    moving: NDArray[np.bool_]  # (H, W) pixels on moving vehicles
    plain: NDArray[np.bool_]  # (H, W) pixels on walls, floors and grounds without texture


class Street:
    """A world of one scene kind that lasts DURATION_S, ridden through. Immutable; safe to render from several threads."""

    def __init__(self, seed: int, config: StreetConfig | None = None) -> None:
        self.seed, self.config = seed, config or StreetConfig()
        rng = np.random.default_rng([seed, 0 if self.config.textures == "train" else 1])
        self.scene, self.ride = BUILDERS[self.config.scene](rng, self.config)
        self._parts = self.scene.array()
        self._lamps = np.array(self.scene.lamps).reshape(-1, 4)

    @property
    def noise(self) -> float:
        """Standard deviation of the sensor noise at this light [grey levels]."""
        return self.config.noise * noise_gain(self.config)

    def pose(self, t_s: float) -> Float64Array:
        """Return world_T_camera (4, 4) at t_s [s]. Raises InputError outside 0 .. DURATION_S."""
        return self.ride.pose(t_s)

    def render(self, camera: CameraModel, world_T_camera: Float64Array, t_s: float) -> Rendering:
        """Return what a pinhole camera sees at t_s [s]. Raises InputError if the camera is distorted or below the ground."""
        check_view(camera, world_T_camera)
        pose = np.ascontiguousarray(world_T_camera, np.float64)
        parts, light = self.parts_at(t_s, pose), self.light_at(pose)
        depth, hit = cast(*pinhole(camera), pose, parts)
        fine = camera.resized(2 * camera.width, 2 * camera.height)  # 2x2 rays per pixel
        radiance = shade(*pinhole(fine), pose, parts, *cast(*pinhole(fine), pose, parts), light, self.scene.road)
        frame = self.frame(pose, t_s)
        if light.wet > 0.0 or light.snow > 0.0:
            add_drops(radiance, light, frame)
        image = expose(radiance, light, self.noise, frame)
        solid = hit > GROUND
        moving = solid & (parts["mover"][np.maximum(hit, 0)] >= 0)
        plain = solid & (parts["material"][np.maximum(hit, 0)] == PLAIN)
        if self.scene.road.kind == BARE:
            plain |= hit == GROUND
        return Rendering(image, depth.astype(np.float32), moving, plain)

    def light_at(self, pose: Float64Array) -> Light:
        """Return the light of a view: a street's lamps are those near the camera."""
        if self.config.scene == "room":
            return self.scene.light
        return self.scene.light._replace(lamps=lamps_at(self._lamps, self.config, pose[:3, 3]))

    def frame(self, pose: Float64Array, t_s: float) -> int:
        """Return the seed of a view's noise and drops; Python's hash of integers is the same in every process."""
        return hash((self.seed, *np.round(pose[:3, 3] * 1e6).astype(int).tolist(), round(t_s * 1e6))) & 0x7FFFFFFF

    def parts_at(self, t_s: float, pose: Float64Array) -> NDArray[np.void]:
        """Return the parts within view at t_s, an array of street_cast.PART, the moving vehicles at their places."""
        places = np.array([self._vehicle_place(i, t_s) for i in range(len(self.scene.vehicles))]).reshape(-1, 3)
        parts = self._parts.copy()
        moving = parts["mover"] >= 0
        x, z, yaw = places[parts["mover"][moving]].T
        parts["x"][moving] = x + parts["along"][moving] * np.sin(yaw)
        parts["z"][moving] = z + parts["along"][moving] * np.cos(yaw)
        parts["cos"][moving], parts["sin"][moving] = np.cos(yaw), np.sin(yaw)
        dx, dz = parts["x"] - pose[0, 3], parts["z"] - pose[2, 3]
        forward = dx * pose[0, 2] + dz * pose[2, 2]
        return parts[(np.hypot(dx, dz) < VIEW_M) & (forward > -30.0) & ~(moving & (parts["z"] > END))]

    def _vehicle_place(self, index: int, t_s: float) -> tuple[float, float, float]:
        vehicle = self.scene.vehicles[index]
        arc = vehicle.start + (self.ride.arc(t_s) if vehicle.with_ego else vehicle.speed * t_s)
        x, z, heading = self.ride.on_course(arc, vehicle.lane)
        return x, z, heading + (np.pi if vehicle.lane < 0 else 0.0)


def check_view(camera: CameraModel, world_T_camera: Float64Array) -> None:
    """Raise InputError unless the camera is a pinhole above the ground."""
    if camera.distortion is not None:
        raise InputError("the street renders pinhole cameras; expected a camera without distortion")
    if world_T_camera.shape != (4, 4) or world_T_camera[1, 3] >= 0.0:
        raise InputError("world_T_camera is not a (4, 4) pose above the ground (y < 0)")


def pinhole(camera: CameraModel) -> tuple[int, int, float, float, float, float]:
    """Return the camera as the kernels take it: width, height, fx, fy, cx, cy [px]."""
    return camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
