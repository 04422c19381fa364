"""How the camera moves through a world: a course over the ground, a speed along it, and the sway of what carries it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float64Array, InputError

DURATION_S = 30.0  # how long one ride lasts
Course = Callable[[float], tuple[float, float]]  # z [m] -> x [m] and dx/dz of the line that the ride follows


class Mount(NamedTuple):
    """What carries the camera: its height [m] and how far it sways, as amplitudes [m] and [rad]."""

    height: float
    lateral: float
    yaw: float
    pitch: float
    roll: float
    bob: float
    surge: float  # how far the speed runs ahead and behind


CAR = Mount(1.65, 0.15, math.radians(0.4), math.radians(0.35), math.radians(0.3), 0.015, 1.5)  # 1.65 m as on KITTI's car
WHEELED = Mount(0.4, 0.06, math.radians(6.0), math.radians(0.4), math.radians(0.3), 0.003, 0.3)
HAND_HELD = Mount(1.45, 0.1, math.radians(14.0), math.radians(4.0), math.radians(2.5), 0.03, 0.3)


def beside(course: Course, z: float, lateral: float) -> tuple[float, float, float]:
    """Return (x, z, heading) at lateral [m] to the right of the course at z."""
    x, slope = course(z)
    heading = math.atan(slope)
    return x + lateral * math.cos(heading), z - lateral * math.sin(heading), heading


class Ride:
    """A ride along a course at `speed` [m/s], `lane` [m] right of it; phases (6,) [rad] place its sway in time."""

    def __init__(
        self, course: Course, speed: float, mount: Mount, phases: NDArray[np.float64], *, lane: float = 0.0, sway: float = 1.0
    ) -> None:
        self.course, self.speed, self.mount, self.lane, self.sway = course, speed, mount, lane, sway
        self._phases = phases
        self._z = np.arange(-200.0, 800.0, 0.5)
        slope = np.array([course(z)[1] for z in self._z])
        step = np.sqrt(1.0 + slope**2) * 0.5
        self._arc = np.cumsum(step) - step[0]
        self._arc -= np.interp(0.0, self._z, self._arc)  # length of the course from z = 0

    def arc(self, t_s: float) -> float:
        """Return how far the ride has come at t_s [m]."""
        return self.speed * t_s + self.mount.surge * math.sin(0.3 * t_s + self._phases[0])

    def on_course(self, arc: float, lateral: float) -> tuple[float, float, float]:
        """Return (x, z, heading) at arc [m] along the course and lateral [m] to its right."""
        return beside(self.course, float(np.interp(arc, self._arc, self._z)), lateral)

    def pose(self, t_s: float) -> Float64Array:
        """Return world_T_camera (4, 4) at t_s [s]. Raises InputError outside 0 .. DURATION_S."""
        if not 0.0 <= t_s <= DURATION_S:
            raise InputError(f"time {t_s} s is outside the street; expected 0 to {DURATION_S} s")
        sway, mount, p = self.sway, self.mount, self._phases
        x, z, heading = self.on_course(self.arc(t_s), self.lane + sway * mount.lateral * math.sin(0.4 * t_s + p[1]))
        yaw = heading + sway * mount.yaw * math.sin(0.7 * t_s + p[2])
        pitch = sway * mount.pitch * math.sin(5.1 * t_s + p[3])
        roll = sway * mount.roll * math.sin(3.7 * t_s + p[4])
        height = mount.height + sway * mount.bob * math.sin(6.3 * t_s + p[5])
        pose = np.eye(4)
        turn, _ = cv2.Rodrigues(np.array([0.0, yaw, 0.0]))
        nod, _ = cv2.Rodrigues(np.array([pitch, 0.0, 0.0]))
        tilt, _ = cv2.Rodrigues(np.array([0.0, 0.0, roll]))
        pose[:3, :3] = turn @ nod @ tilt
        pose[:3, 3] = x, -height, z
        return pose
