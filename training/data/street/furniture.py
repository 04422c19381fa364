"""What stands and hangs in a room: tables, chairs, shelves, cupboards, sofas, plants, boxes, pictures, doors, windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training.data.street.cast import ELLIPSOID
from training.data.street.objects import Scene, vary
from training.data.street.ride import Course
from training.data.street.texture import BOOKS, CLOTH, FOLIAGE, METAL, PICTURE, WINDOW, WOOD, Colour

WOODS: tuple[Colour, ...] = ((0.32, 0.19, 0.1), (0.18, 0.1, 0.06), (0.5, 0.38, 0.24), (0.65, 0.64, 0.62))
CLOTHS: tuple[Colour, ...] = ((0.15, 0.18, 0.3), (0.35, 0.1, 0.08), (0.3, 0.3, 0.28), (0.12, 0.22, 0.14))
CLEAR = 0.6  # [m] that the walk leaves to both sides
Bounds = tuple[float, float, float, float]  # z0, z1, x0, x1


def add_wall_items(scene: Scene, rng: Generator, wall: tuple[float, int], span: tuple[float, float], windows: bool) -> None:
    """Hang pictures, doors and windows on a side wall: wall is its x and the side that it is on, span its z."""
    (x, side), z = wall, span[0] + rng.uniform(0.7, 1.5)
    while z < span[1] - 0.8:
        seed, kind = int(rng.integers(1 << 20)), rng.random()
        if kind < 0.35:
            size, base, material = (0.04, rng.uniform(0.4, 0.8), rng.uniform(0.4, 1.0)), 1.25, PICTURE
            colour = vary(rng, (0.5, 0.45, 0.4))
        elif kind < 0.6:
            size, base, material, colour = (0.06, 2.03, 0.9), 0.0, WOOD, vary(rng, WOODS[rng.integers(4)])
        elif kind < 0.85 and windows:
            size, base, material, colour = (0.05, 1.2, 1.1), 0.95, WINDOW, (1.0, 1.0, 1.0)
        else:
            z += 1.0
            continue
        scene.add(material, colour, (x - side * size[0] / 2, z, 0.0), size, base=base, seed=seed)
        z += rng.uniform(1.2, 2.4)


@dataclass(frozen=True)
class Spot:
    """The floor space of one piece of furniture: its centre and its size, across the room and along its wall [m]."""

    scene: Scene
    x: float
    z: float
    across: float
    along: float
    inward: float  # which way the wall looks along x: -1 or 1
    seed: int

    def box(
        self,
        material: int,
        colour: Colour,
        share: tuple[float, float],
        base: float,
        top: float,
        off: tuple[float, float] = (0, 0),
    ) -> None:
        """Add a box from base to top [m]; share and off are parts of the floor space."""
        place = (self.x + off[0] * self.across, self.z + off[1] * self.along, 0.0)
        size = (share[0] * self.across, top - base, share[1] * self.along)
        self.scene.add(material, colour, place, size, base=base, seed=self.seed)

    def legs(self, material: int, colour: Colour, height: float) -> None:
        """Add four legs."""
        for x in (-0.45, 0.45):
            for z in (-0.45, 0.45):
                self.box(material, colour, (0.08, 0.05), 0.0, height, (x, z))


def add_table(spot: Spot, rng: Generator) -> None:
    """Add a table, often with a screen on it."""
    wood = vary(rng, WOODS[rng.integers(4)])
    spot.box(WOOD, wood, (1.0, 1.0), 0.7, 0.74)
    spot.legs(WOOD, wood, 0.7)
    if rng.random() < 0.6:
        spot.box(METAL, (0.03, 0.03, 0.035), (0.08, 0.4), 0.74, 1.12, (0.2, 0.1))


def add_chair(spot: Spot, rng: Generator) -> None:
    """Add a chair with its back to the wall."""
    cloth = vary(rng, CLOTHS[rng.integers(4)])
    spot.box(CLOTH, cloth, (1.0, 1.0), 0.41, 0.45)
    spot.legs(METAL, (0.2, 0.2, 0.2), 0.41)
    spot.box(CLOTH, cloth, (0.08, 1.0), 0.45, 0.9, (-0.45 * spot.inward, 0.0))


def add_shelf(spot: Spot, rng: Generator) -> None:
    """Add a bookshelf of three to six boards."""
    spot.box(BOOKS, vary(rng, WOODS[rng.integers(4)]), (1.0, 1.0), 0.0, 0.34 * int(rng.integers(3, 7)) + 0.03)


def add_cupboard(spot: Spot, rng: Generator) -> None:
    """Add a cupboard."""
    spot.box(WOOD, vary(rng, WOODS[rng.integers(4)]), (1.0, 1.0), 0.0, rng.uniform(0.8, 2.0))


def add_sofa(spot: Spot, rng: Generator) -> None:
    """Add a sofa with its back to the wall."""
    cloth = vary(rng, CLOTHS[rng.integers(4)])
    spot.box(CLOTH, cloth, (1.0, 1.0), 0.0, 0.42)
    spot.box(CLOTH, cloth, (0.25, 1.0), 0.42, 0.85, (-0.37 * spot.inward, 0.0))


def add_plant(spot: Spot, rng: Generator) -> None:
    """Add a plant in a pot."""
    spot.scene.add(METAL, (0.4, 0.25, 0.18), (spot.x, spot.z, 0.0), (0.3, 0.35, 0.3), top=(1.25, 1.25))
    for n in range(4):
        size = (rng.uniform(0.35, 0.55),) * 3
        at = (spot.x + rng.uniform(-0.12, 0.12), spot.z + rng.uniform(-0.12, 0.12), 0.0)
        spot.scene.add(FOLIAGE, (0.07, 0.14, 0.04), at, size, base=0.35 + 0.2 * n, shape=ELLIPSOID, seed=spot.seed + n)


def add_boxes(spot: Spot, rng: Generator) -> None:
    """Add two cardboard boxes, one on the other."""
    spot.box(CLOTH, vary(rng, (0.4, 0.28, 0.16)), (1.0, 1.0), 0.0, 0.4)
    spot.box(CLOTH, vary(rng, (0.42, 0.3, 0.18)), (0.7, 0.75), 0.4, 0.7, (0.05, -0.05))


PIECES = (  # and their floor space, across and along [m]
    (add_table, 0.7, 1.4), (add_shelf, 0.35, 1.0), (add_cupboard, 0.55, 0.9), (add_sofa, 0.85, 1.9), (add_plant, 0.5, 0.5),
    (add_boxes, 0.5, 0.6), (add_chair, 0.48, 0.48),
)  # fmt: skip


def furnish(scene: Scene, rng: Generator, room: Bounds, course: Course, attempts: int) -> None:
    """Put furniture along the side walls of a room, clear of the walk and of each other."""
    z0, z1, x0, x1 = room
    taken: list[Bounds] = []
    for _ in range(attempts):
        add_piece, across, along = PIECES[rng.integers(len(PIECES))]
        inward = rng.choice([-1.0, 1.0])
        x = x0 + 0.05 + across / 2 if inward > 0 else x1 - 0.05 - across / 2
        z = rng.uniform(z0 + 0.2 + along / 2, z1 - 0.2 - along / 2)
        own = (z - along / 2, z + along / 2, x - across / 2, x + across / 2)
        ways = [course(s)[0] for s in np.linspace(own[0] - 0.3, own[1] + 0.3, 7)]
        if own[2] - CLEAR < max(ways) and own[3] + CLEAR > min(ways):
            continue
        if any(own[0] < b[1] and own[1] > b[0] and own[2] < b[3] and own[3] > b[2] for b in taken):
            continue
        taken.append(own)
        add_piece(Spot(scene, x, z, across, along, inward, int(rng.integers(1 << 20))), rng)
