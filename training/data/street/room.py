"""A floor of a building, drawn from a seed: corridors and rooms in a row, one door after the other, and a walk through them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training.data.street.config import StreetConfig
from training.data.street.furniture import add_wall_items, furnish
from training.data.street.light import Light
from training.data.street.objects import Scene, vary
from training.data.street.ride import HAND_HELD, WHEELED, Course, Ride
from training.data.street.texture import (
    BARE,
    CARPET,
    CLOTH,
    DOTTED,
    GLOW,
    PLAIN,
    PLANKS,
    STRIPED,
    TILED,
    TILES,
    WOOD,
    Colour,
    Road,
)
from training.data.street.weather import dimmed

LENGTH, START = 44.0, -3.0  # [m] along z; a walk of 30 s is at most 32 m
DOOR_WIDTH, DOOR_HEIGHT = 1.0, 2.05  # [m]
PARTITION, SIDE_WALL = 0.14, 1.0  # thickness [m]
PAINTS = {
    "train": ((0.72, 0.7, 0.65), (0.6, 0.66, 0.7), (0.7, 0.62, 0.45), (0.5, 0.6, 0.5), (0.65, 0.45, 0.4)),
    "test": ((0.78, 0.77, 0.75), (0.55, 0.57, 0.66), (0.74, 0.7, 0.55), (0.6, 0.63, 0.55), (0.6, 0.52, 0.5)),
}
PATTERN = {"train": STRIPED, "test": DOTTED}  # of the wallpaper
FLOORS: tuple[tuple[int, Colour], ...] = (
    (PLANKS, (0.35, 0.2, 0.1)), (PLANKS, (0.22, 0.13, 0.07)), (TILES, (0.5, 0.48, 0.44)), (CARPET, (0.2, 0.2, 0.24)),
    (CARPET, (0.3, 0.12, 0.1)),
)  # fmt: skip


@dataclass(frozen=True)
class Zone:
    """A corridor or a room: where it lies, and where the doors at its two ends are [m]."""

    z0: float
    z1: float
    x0: float
    x1: float
    door0: float  # x of the door at z0
    door1: float
    corridor: bool


def build_room(rng: Generator, config: StreetConfig) -> tuple[Scene, Ride]:
    """Return the rooms and the walk through them, by a wheeled robot or with a camera in the hand."""
    height = rng.uniform(2.4, 3.1)
    scene = Scene(draw_floor(rng, config.plain), draw_room_light(rng))
    zones = draw_zones(rng)
    course = walk(zones)
    for zone in zones:
        build_walls(scene, rng, zone, height, config)
        furnish(scene, rng, (zone.z0, zone.z1, zone.x0, zone.x1), course, 4 if zone.corridor else 14)
    build_ceiling(scene, rng, zones, height, config.plain)
    scene.light = dimmed(scene.light, config)._replace(lamps=np.array(scene.lamps) * [1, 1, 1, config.light])
    speed, mount = rng.uniform(0.4, 1.0), (WHEELED if rng.random() < 0.5 else HAND_HELD)
    mount = mount._replace(height=mount.height * rng.uniform(0.7, 1.1))
    return scene, Ride(course, speed, mount, rng.uniform(0.0, 2 * math.pi, size=6), sway=config.sway)


def draw_floor(rng: Generator, plain: float) -> Road:
    """Draw the floor: wood, tiles, carpet, or without any texture."""
    kind, colour = FLOORS[rng.integers(len(FLOORS))]
    if rng.random() < plain:
        kind, colour = BARE, (0.42, 0.41, 0.38)
    still = (0.0, 1.0, 0.0)
    return Road(
        still, still, 1.0, 0.0, 0.1, 0, False, False, np.zeros(0), int(rng.integers(1 << 20)), kind, vary(rng, colour)
    )  # fmt: skip


def draw_room_light(rng: Generator) -> Light:
    """Draw the light that walls throw back, and the exposure; the lamps come with the ceiling."""
    ambient = rng.uniform(0.35, 0.7)
    none, white = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    grey = (ambient, ambient * 0.98, ambient * 0.94)
    return Light(0.0, 1.0, 0.0, none, grey, white, white, 0.0, 0.0, rng.uniform(0.9, 1.7), int(rng.integers(1 << 20)))


def draw_zones(rng: Generator) -> list[Zone]:
    """Draw corridors and rooms in turn, each reaching over the door of the one before."""
    zones: list[Zone] = []
    z, door, corridor = START, 0.0, bool(rng.random() < 0.5)
    while z < START + LENGTH:
        length, width = (rng.uniform(4, 8), rng.uniform(1.8, 2.6)) if corridor else (rng.uniform(4, 8), rng.uniform(3.2, 6.5))
        x0 = door - rng.uniform(0.8, width - 0.8)
        following = rng.uniform(x0 + 0.8, x0 + width - 0.8)
        zones.append(Zone(z, z + length, x0, x0 + width, door, following, corridor))
        z, door, corridor = z + length, following, bool(rng.random() < (0.2 if corridor else 0.6))
    return zones


def walk(zones: list[Zone]) -> Course:
    """Return the line through the doors, straight ahead in each of them."""
    starts = np.array([zone.z0 for zone in zones])

    def course(z: float) -> tuple[float, float]:
        zone = zones[max(0, int(np.searchsorted(starts, z, "right")) - 1)]
        margin = 0.4
        length, aside = zone.z1 - zone.z0 - 2 * margin, zone.door1 - zone.door0
        share = min(1.0, max(0.0, (z - zone.z0 - margin) / length))
        return zone.door0 + aside * share * share * (3.0 - 2.0 * share), aside / length * 6.0 * share * (1.0 - share)

    return course


def draw_wall(rng: Generator, config: StreetConfig) -> tuple[int, Colour]:
    """Draw the material and the colour of a wall."""
    textured = (PATTERN[config.textures], CLOTH, TILED, WOOD)
    material = PLAIN if rng.random() < config.plain else int(rng.choice(textured, p=(0.5, 0.2, 0.15, 0.15)))
    paints = PAINTS[config.textures]
    colour = (0.3, 0.18, 0.1) if material == WOOD else paints[rng.integers(len(paints))]
    return material, vary(rng, colour)


def build_walls(scene: Scene, rng: Generator, zone: Zone, height: float, config: StreetConfig) -> None:
    """Put up a zone's side walls, with what hangs on them, and the wall with the door at its end."""
    middle, length = 0.5 * (zone.z0 + zone.z1), zone.z1 - zone.z0
    for x, side in ((zone.x0, -1), (zone.x1, 1)):
        material, colour = draw_wall(rng, config)
        seed = int(rng.integers(1 << 20))
        scene.add(material, colour, (x + side * SIDE_WALL / 2, middle, 0.0), (SIDE_WALL, height, length), seed=seed)
        scene.add(WOOD, (0.5, 0.48, 0.45), (x - side * 0.01, middle, 0.0), (0.02, 0.09, length), seed=seed)
        add_wall_items(scene, rng, (x, side), (zone.z0, zone.z1), windows=not zone.corridor)
    material, colour = draw_wall(rng, config)
    left, right = zone.door1 - DOOR_WIDTH / 2, zone.door1 + DOOR_WIDTH / 2
    seed = int(rng.integers(1 << 20))
    for a, b, base in ((zone.x0 - 6, left, 0.0), (left, right, DOOR_HEIGHT), (right, zone.x1 + 6, 0.0)):
        scene.add(material, colour, ((a + b) / 2, zone.z1, 0.0), (b - a, height - base, PARTITION), base=base, seed=seed)
    for x in (left, right):
        scene.add(WOOD, (0.55, 0.52, 0.48), (x, zone.z1, 0.0), (0.07, DOOR_HEIGHT, PARTITION + 0.06), seed=seed)
    scene.add(WOOD, (0.55, 0.52, 0.48), (zone.door1, zone.z1, 0.0), (DOOR_WIDTH + 0.07, 0.07, PARTITION + 0.06), base=DOOR_HEIGHT)


def build_ceiling(scene: Scene, rng: Generator, zones: list[Zone], height: float, plain: float) -> None:
    """Close the rooms from above, and hang a lamp or two into each of them; close the last door."""
    end = zones[-1].z1
    tiled = rng.random() > 0.5 + 0.5 * plain
    scene.add(
        TILED if tiled else PLAIN, (0.75, 0.75, 0.73), (0.0, 0.5 * (START + end), 0.0), (120.0, 0.2, end - START + 4.0),
        base=height, seed=int(rng.integers(1 << 20)),
    )  # fmt: skip
    for z in (START, end):
        scene.add(PLAIN, (0.6, 0.6, 0.58), (zones[0].door0 if z == START else zones[-1].door1, z, 0.0), (20.0, height, 0.1))
    for zone in zones:
        count = 2 if zone.z1 - zone.z0 > 6.0 else 1
        for n in range(count):
            x, z = 0.5 * (zone.x0 + zone.x1), zone.z0 + (n + 0.5) / count * (zone.z1 - zone.z0)
            scene.add(GLOW, (2.5, 2.4, 2.2), (x, z, 0.0), (0.6, 0.05, 0.6), base=height - 0.05)
            scene.lamps.append((x, height - 0.35, z, rng.uniform(3.0, 6.0)))
