"""A wide open ground without texture, drawn from a seed: sand, concrete, snow or asphalt, and a few things that stand on it."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from training.data.street.config import StreetConfig
from training.data.street.objects import ROOFS, WALLS, Scene, add_car, add_tree, vary
from training.data.street.ride import WHEELED, Ride
from training.data.street.scene import draw_light, draw_road
from training.data.street.texture import BARE, BRICK, FACADE, METAL, PLAIN, ROOF, WOOD, Colour, centre_line
from training.data.street.weather import weathered

GROUNDS: tuple[Colour, ...] = ((0.45, 0.36, 0.24), (0.36, 0.36, 0.34), (0.7, 0.71, 0.74), (0.13, 0.13, 0.13), (0.3, 0.24, 0.14))
REACH = 120.0  # [m] along z; a ride of 30 s is at most 90 m
CLEAR = 2.5  # [m] that things keep from the course


def build_ground(rng: Generator, config: StreetConfig) -> tuple[Scene, Ride]:
    """Return the ground and a wheeled robot's ride over it."""
    road = draw_road(rng, config.turns)._replace(kind=BARE, colour=vary(rng, GROUNDS[rng.integers(len(GROUNDS))]))
    scene = Scene(road, weathered(draw_light(rng, config.fog), config))
    taken: list[tuple[float, float, float]] = []
    for _ in range(int(rng.integers(6, 30))):
        add_thing(scene, rng, config, taken)
    build_horizon(scene, rng, config)
    speed, mount = rng.uniform(1.0, 3.0), WHEELED._replace(height=rng.uniform(0.4, 1.7))
    phases = rng.uniform(0.0, 2 * math.pi, size=6)
    return scene, Ride(lambda z: centre_line(z, road), speed, mount, phases, sway=config.sway)


def add_thing(scene: Scene, rng: Generator, config: StreetConfig, taken: list[tuple[float, float, float]]) -> None:
    """Add a tree, a car, a container, a cone, a bin or a pole, clear of the course and of what stands already (x, z, radius)."""
    kind = int(rng.integers(6))
    radius = (2.5, 2.8, 3.7, 0.3, 0.5, 0.2)[kind]
    s = rng.uniform(-5.0, REACH)
    lateral = rng.choice([-1.0, 1.0]) * (CLEAR + radius + 22.0 * rng.random() ** 2)
    x, z, heading = scene.place(s, lateral)
    ways = [math.hypot(x - centre_line(w, scene.road)[0], z - w) for w in np.arange(z - 30.0, z + 30.0, 1.0)]
    if min(ways) < CLEAR + radius or any(math.hypot(x - a, z - b) < radius + c for a, b, c in taken):
        return
    taken.append((x, z, radius))
    at, seed = (x, z, heading + rng.uniform(-math.pi, math.pi)), int(rng.integers(1 << 20))
    if kind == 0:
        add_tree(scene, rng, at, rng.uniform(3, 8), 0.4)
    elif kind == 1:
        add_car(scene, rng, at)
    elif kind == 2:
        material = PLAIN if rng.random() < config.plain else int(rng.choice([BRICK, WOOD]))
        scene.add(material, vary(rng, WALLS[config.textures][rng.integers(6)]), at, (2.4, 2.6, 6.0), seed=seed)
    elif kind == 3:
        scene.add(METAL, (0.7, 0.16, 0.03), at, (0.4, 0.75, 0.4), top=(0.15, 0.15))
    elif kind == 4:
        scene.add(METAL, vary(rng, (0.06, 0.16, 0.08)), at, (0.6, 1.05, 0.7), top=(1.1, 1.1))
    else:
        scene.add(METAL, (0.3, 0.3, 0.3), at, (0.12, rng.uniform(2.5, 6.0), 0.12))


def build_horizon(scene: Scene, rng: Generator, config: StreetConfig) -> None:
    """Put trees and houses far around the ground, with gaps."""
    for angle in np.arange(-1.5, 1.5, 0.06):
        if rng.random() < 0.45:
            continue
        distance = rng.uniform(60.0, 110.0)
        x = distance * math.sin(angle) * 1.3
        z = REACH / 2 + distance * math.cos(angle)
        if rng.random() < 0.75:
            add_tree(scene, rng, (x, z, 0.0), rng.uniform(6, 14), 0.4)
            continue
        size, yaw, seed = (rng.uniform(8, 16), rng.uniform(4, 10), 12.0), rng.uniform(0, math.pi), int(rng.integers(1 << 20))
        scene.add(FACADE, vary(rng, WALLS[config.textures][rng.integers(6)]), (x, z, yaw), size, seed=seed)
        roof = vary(rng, ROOFS[config.textures][rng.integers(2)])
        scene.add(ROOF, roof, (x, z, yaw), (size[0] + 0.8, 3.0, 12.8), base=size[1], top=(0.0, 1.0))
