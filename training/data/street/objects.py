"""The things that stand in a street, each built from a few convex parts: houses, trees, cars, hedges, lamps, people."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from training.data.street.cast import ELLIPSOID, FRUSTUM, PART
from training.data.street.light import Light
from training.data.street.ride import beside
from training.data.street.texture import (
    BARK,
    BRICK,
    FACADE,
    FOLIAGE,
    GLASS,
    METAL,
    PAINT,
    PLAIN,
    ROOF,
    RUBBER,
    SIGN,
    Colour,
    Road,
    centre_line,
)

Place = tuple[float, float, float]  # x, z [m], heading [rad]
PAINTS = ((0.02, 0.02, 0.02), (0.04, 0.04, 0.05), (0.1, 0.1, 0.11), (0.35, 0.36, 0.37), (0.6, 0.6, 0.58), (0.35, 0.02, 0.02),
          (0.03, 0.06, 0.2), (0.03, 0.12, 0.07), (0.3, 0.25, 0.15))  # fmt: skip
LAMP_POWER = 4.0  # of a street lamp; the sun's irradiance is about 3
SIGNS = ((0.5, 0.03, 0.03), (0.03, 0.1, 0.45), (0.7, 0.7, 0.65), (0.6, 0.45, 0.02))
# Walls and roofs of the two texture families share no colour and, by their seeds, no pattern.
WALLS = {
    "train": ((0.72, 0.7, 0.66), (0.62, 0.55, 0.4), (0.5, 0.47, 0.42), (0.66, 0.6, 0.3), (0.45, 0.27, 0.2), (0.35, 0.36, 0.38)),
    "test": ((0.78, 0.77, 0.74), (0.55, 0.42, 0.3), (0.4, 0.42, 0.42), (0.5, 0.56, 0.5), (0.6, 0.38, 0.3), (0.7, 0.63, 0.5)),
}
BRICKS = {"train": ((0.3, 0.12, 0.07), (0.36, 0.22, 0.13)), "test": ((0.26, 0.14, 0.1), (0.4, 0.28, 0.18))}
ROOFS = {"train": ((0.3, 0.1, 0.05), (0.12, 0.11, 0.11)), "test": ((0.24, 0.12, 0.08), (0.16, 0.16, 0.18))}


@dataclass(frozen=True)
class Vehicle:
    """A moving car: its place along the street is start + speed t [m], or the ego's own plus `start` if it follows ego."""

    start: float  # [m]
    speed: float  # [m/s], negative when it comes towards the camera
    lane: float  # [m] from the centre line
    with_ego: bool


@dataclass
class Scene:
    """Everything in a street that does not depend on time; vehicles' parts are placed at their own origin."""

    road: Road
    light: Light
    parts: list[tuple[object, ...]] = field(default_factory=list)
    vehicles: list[Vehicle] = field(default_factory=list)
    lamps: list[tuple[float, float, float, float]] = field(default_factory=list)  # x, h, z [m] and power

    def array(self) -> NDArray[np.void]:
        """Return the parts as an array (P,) of PART."""
        return np.array(self.parts, PART)

    def place(self, s: float, lateral: float) -> Place:
        """Return (x, z, heading) at lateral [m] to the right of the road's centre at z = s."""
        return beside(lambda z: centre_line(z, self.road), s, lateral)

    def add(
        self, material: int, colour: Colour, at: Place, size: tuple[float, float, float], *, base: float = 0.0,
        top: tuple[float, float] = (1.0, 1.0), shape: int = FRUSTUM, seed: int = 0, mover: int = -1, along: float = 0.0
    ) -> None:  # fmt: skip
        """Add one part: size is width, height, length [m]; top gives width and length at the top as shares of the foot's."""
        (x, z, yaw), (width, height, length) = at, size
        half_x, half_z = width / 2, length / 2
        sizes = (half_x, half_z, half_x * top[0], half_z * top[1], height)
        self.parts.append((x, z, base, math.cos(yaw), math.sin(yaw), *sizes, *colour, shape, material, seed, mover, along))


def vary(rng: Generator, colour: Colour) -> Colour:
    """Return the colour, up to a fifth brighter or darker and slightly tinted."""
    tone = rng.uniform(0.8, 1.15) * rng.uniform(0.95, 1.05, size=3)
    return (float(colour[0] * tone[0]), float(colour[1] * tone[1]), float(colour[2] * tone[2]))


def add_house(
    scene: Scene, rng: Generator, s: float, side: int, length: float, setback: float, plain: float, family: str
) -> None:
    """Add a house whose front stands `setback` behind the sidewalk, with roof, chimney, and perhaps a porch."""
    depth, storeys = rng.uniform(8, 13), rng.integers(1, 5)
    edge = scene.road.half_width + scene.road.sidewalk + setback
    height = 2.8 * storeys + rng.uniform(0.2, 1.0)
    at = scene.place(s, side * (edge + depth / 2))
    seed = int(rng.integers(1 << 20))
    kind = rng.random()
    if kind < plain:
        material, colour = PLAIN, WALLS[family][rng.integers(6)]
    elif kind < plain + 0.25 * (1 - plain):
        material, colour = BRICK, BRICKS[family][rng.integers(2)]
    else:
        material, colour = FACADE, WALLS[family][rng.integers(6)]
    colour = vary(rng, colour)
    scene.add(material, colour, at, (depth, height, length), seed=seed)
    roof = vary(rng, ROOFS[family][rng.integers(2)])
    if rng.random() < 0.2:
        scene.add(ROOF, (0.3, 0.3, 0.3), at, (depth + 0.4, 0.4, length + 0.4), base=height, seed=seed)
        return
    pitch, eaves = rng.uniform(0.5, 0.9), rng.uniform(0.3, 0.7)
    width, long = depth + 2 * eaves, length + 2 * eaves
    gable = rng.random()
    top = (0.0, 1.0) if gable < 0.5 else (1.0, 0.0) if gable < 0.7 else (0.0, max(0.0, 1.0 - width / long))
    span = length if top == (1.0, 0.0) else depth
    scene.add(ROOF, roof, at, (width, pitch * span / 2, long), base=height - 0.1, top=top, seed=seed)
    chimney = scene.place(s + rng.uniform(-0.3, 0.3) * length, side * (edge + depth * 0.6))
    scene.add(BRICK, BRICKS[family][0], chimney, (0.7, 1.6, 0.7), base=height + pitch * span * 0.35, seed=seed)
    if setback > 3.0 and rng.random() < 0.4:
        porch = scene.place(s + rng.uniform(-0.3, 0.3) * length, side * (edge - 0.8))
        scene.add(material, colour, porch, (1.6, 2.7, 3.0), seed=seed + 1)


def add_tree(scene: Scene, rng: Generator, at: Place, height: float, conifers: float) -> None:
    """Add a tree: a trunk under a crown of overlapping ellipsoids, or, with the given probability, a conifer."""
    seed, tint = int(rng.integers(1 << 20)), rng.uniform(0.6, 1.4)
    green = (0.1 * tint * rng.uniform(0.7, 1.4), 0.13 * tint, 0.04 * tint)
    trunk = rng.uniform(0.3, 0.45) * height
    thick = rng.uniform(0.03, 0.05) * height
    if rng.random() < conifers:
        scene.add(BARK, (0.06, 0.045, 0.035), at, (thick, height * 0.2, thick), seed=seed)
        for level, width in ((0.12, 0.42), (0.36, 0.33), (0.6, 0.22)):
            size = (width * height, 0.4 * height, width * height)
            scene.add(FOLIAGE, green, at, size, base=level * height, top=(0.05, 0.05), seed=seed)
        return
    scene.add(BARK, (0.07, 0.055, 0.045), at, (thick, trunk + 0.2 * height, thick), top=(0.7, 0.7), seed=seed)
    spread = (height - trunk) * rng.uniform(0.6, 0.9)
    for n in range(rng.integers(4, 7)):
        width, tall = spread * rng.uniform(0.55, 0.8), (height - trunk) * rng.uniform(0.45, 0.7)
        angle, off = 2.4 * n, 0.3 * spread * (n > 0)
        blob = (at[0] + off * math.cos(angle), at[1] + off * math.sin(angle), at[2])
        base = trunk + (height - trunk - tall) * rng.random()
        scene.add(FOLIAGE, green, blob, (width, tall, width), base=base, shape=ELLIPSOID, seed=seed + n)


def add_car(scene: Scene, rng: Generator, at: Place, mover: int = -1) -> None:
    """Add a car or van of four parts: body, cabin and the two axles. The front is +z."""
    van = rng.random() < 0.15
    width, length = rng.uniform(1.7, 1.85), rng.uniform(3.7, 4.7) + 0.5 * van
    waist, total = (1.1, rng.uniform(1.9, 2.3)) if van else (rng.uniform(0.65, 0.75), rng.uniform(1.4, 1.6))
    colour = vary(rng, PAINTS[rng.integers(len(PAINTS))])

    def part(
        material: int, paint: Colour, size: tuple[float, float, float], base: float, along: float, top: tuple[float, float]
    ) -> None:
        x, z, yaw = at
        moved = (x + along * math.sin(yaw), z + along * math.cos(yaw), yaw)
        scene.add(material, paint, moved, size, base=base, top=top, mover=mover, along=along)

    cabin = length * (0.8 if van else 0.62)
    part(PAINT, colour, (width, waist, length), 0.2, 0.0, (0.96, 0.96))
    part(GLASS, colour, (width * 0.94, total - waist - 0.2, cabin), 0.2 + waist, -0.09 * length, (0.8, 0.85 if van else 0.62))
    for axle in (-0.31 * length, 0.31 * length):
        part(RUBBER, (0.015, 0.015, 0.015), (width * 0.97, 0.3, 0.55), 0.0, axle, (1.0, 1.0))


def add_border(scene: Scene, rng: Generator, s: float, lateral: float, length: float) -> None:
    """Add a hedge or a low wall along the sidewalk."""
    seed = int(rng.integers(1 << 20))
    if rng.random() < 0.65:
        green = vary(rng, (0.07, 0.1, 0.03))
        scene.add(FOLIAGE, green, scene.place(s, lateral), (0.8, rng.uniform(0.8, 2.0), length), top=(0.8, 1.0), seed=seed)
    else:
        scene.add(BRICK, vary(rng, (0.4, 0.38, 0.35)), scene.place(s, lateral), (0.25, rng.uniform(0.6, 1.3), length), seed=seed)


def add_furniture(scene: Scene, rng: Generator, s: float, side: int) -> None:
    """Add, each with some probability, a lamp at s and a sign and a person within the next 28 m."""
    kerb = scene.road.half_width
    if rng.random() < 0.75:
        height = rng.uniform(5, 8)
        scene.add(METAL, (0.2, 0.21, 0.2), scene.place(s, side * (kerb + 0.45)), (0.14, height, 0.14), top=(0.6, 0.6))
        head = scene.place(s, side * (kerb - 0.3))
        scene.add(METAL, (0.3, 0.3, 0.3), head, (1.5, 0.12, 0.2), base=height)
        scene.lamps.append((head[0], height - 0.2, head[1], LAMP_POWER))
    if rng.random() < 0.6:
        at = scene.place(s + rng.uniform(4, 20), side * (kerb + 0.4))
        scene.add(METAL, (0.25, 0.25, 0.25), at, (0.07, 2.1, 0.07))
        scene.add(SIGN, SIGNS[rng.integers(len(SIGNS))], at, (0.6, 0.6, 0.04), base=2.1)
    if rng.random() < 0.5:
        at = scene.place(s + rng.uniform(0, 28), side * (kerb + scene.road.sidewalk * rng.uniform(0.4, 0.8)))
        scene.add(METAL, (0.05, 0.05, 0.08), at, (0.3, 0.85, 0.3), top=(1.1, 1.0))
        scene.add(METAL, vary(rng, PAINTS[rng.integers(len(PAINTS))]), at, (0.5, 0.65, 0.32), base=0.8, shape=ELLIPSOID)
        scene.add(METAL, (0.35, 0.22, 0.16), at, (0.2, 0.26, 0.22), base=1.45, shape=ELLIPSOID)
