"""The layout of a street: where its road runs and what stands along it, drawn from a seed."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from training.data.street.config import StreetConfig
from training.data.street.light import Light
from training.data.street.objects import (
    ROOFS,
    WALLS,
    Scene,
    Vehicle,
    add_border,
    add_car,
    add_furniture,
    add_house,
    add_tree,
    vary,
)
from training.data.street.ride import CAR, Ride
from training.data.street.texture import CROSSING_HALF_WIDTH, FACADE, PLAIN, ROOF, Road, centre_line
from training.data.street.weather import weathered

LENGTH = 440.0  # [m] of built-up street along z, which starts 40 m behind the camera
START = -40.0
END = LENGTH + START + 12.0  # [m], where moving cars come from behind the last trees
LANE = 1.75  # [m], from the centre line to the middle of a lane; traffic keeps right


def draw_road(rng: Generator, turns: float) -> Road:
    """Draw the road's course and cross-section; turns scales the bends, 0 is straight."""
    wave, wave2 = 2 * math.pi / rng.uniform(160, 260), 2 * math.pi / rng.uniform(70, 110)
    crossings = np.cumsum(rng.uniform(60, 130, size=6)) - 20.0
    return Road(
        bend=(turns * rng.uniform(0.0, 0.3) / wave, wave, rng.uniform(0, 2 * math.pi)),
        bend2=(turns * rng.uniform(0.0, 0.07) / wave2, wave2, rng.uniform(0, 2 * math.pi)),
        half_width=rng.choice([3.3, 4.0, 5.3, 5.8]),
        sidewalk=rng.uniform(1.5, 3.5),
        asphalt=rng.uniform(0.07, 0.17),
        centre_line=int(rng.choice(3, p=[0.35, 0.5, 0.15])),
        edge_line=bool(rng.random() < 0.3),
        paved_yards=bool(rng.random() < 0.35),
        crossings=crossings,
        seed=int(rng.integers(1 << 20)),
    )


def draw_light(rng: Generator, fog: float) -> Light:
    """Draw sun, sky and exposure: clear days with hard shadows, and one overcast day in five."""
    overcast = rng.random() < 0.2
    elevation, azimuth = math.radians(rng.uniform(22, 65)), rng.uniform(0, 2 * math.pi)
    horizontal = math.cos(elevation)
    warm = 0.12 * (1.0 - elevation)
    sun = 0.0 if overcast else rng.uniform(2.6, 3.6)
    ambient = rng.uniform(1.3, 1.7) if overcast else rng.uniform(0.15, 0.5)
    grey = rng.uniform(1.6, 2.6)
    return Light(
        sun_x=horizontal * math.sin(azimuth),
        sun_h=math.sin(elevation),
        sun_z=horizontal * math.cos(azimuth),
        sun=(sun * (1 + warm), sun, sun * (1 - 1.5 * warm)),
        ambient=(ambient, ambient, ambient) if overcast else (0.88 * ambient, ambient, 1.18 * ambient),
        zenith=(grey, grey, grey) if overcast else (0.25, 0.55, 1.2),
        horizon=(grey, grey, grey) if overcast else (1.5, 1.75, 2.0),
        clouds=rng.uniform(0.6, 1.0) if overcast else max(0.0, rng.uniform(-0.3, 0.6)),
        haze=fog * rng.uniform(0.2, 1.0) ** 4 * 0.004,
        exposure=rng.uniform(0.75, 1.8),
        seed=int(rng.integers(1 << 20)),
    )


def build_street(rng: Generator, config: StreetConfig) -> tuple[Scene, Ride]:
    """Return a street and the drive along its right lane."""
    road = draw_road(rng, config.turns)
    scene = Scene(road, weathered(draw_light(rng, config.fog), config))
    speed = float(rng.uniform(6.5, 9.5))  # [m/s]
    for side in (-1, 1):
        build_side(scene, rng, side, config.plain, config.textures)
    build_background(scene, rng, config.plain, config.textures)
    build_traffic(scene, rng, config.movers, config.ego_speed_cars, speed)
    phases = rng.uniform(0.0, 2 * math.pi, size=6)
    return scene, Ride(lambda z: centre_line(z, road), speed, CAR, phases, lane=LANE, sway=config.sway)


def clear_of_crossings(scene: Scene, s: float, half_length: float) -> bool:
    """Return whether something of this half length at s leaves the side streets free."""
    return bool(np.all(np.abs(scene.road.crossings - s) > CROSSING_HALF_WIDTH + half_length))


def build_side(scene: Scene, rng: Generator, side: int, plain: float, family: str) -> None:
    """Line one side of the street with houses, gardens, parked cars, trees, lamps, signs and people."""
    setback, gap, hedged = rng.choice([0.0, 2.5, 5.0, 8.0]), rng.uniform(0.5, 7.0), rng.random() < 0.55
    back = scene.road.half_width + scene.road.sidewalk
    s = START
    while s < LENGTH + START:
        length = rng.uniform(8, 18)
        if clear_of_crossings(scene, s + length / 2, length / 2 + 1.0):
            add_house(scene, rng, s + length / 2, side, length, max(0.0, setback + rng.uniform(-1, 1)), plain, family)
            if hedged and setback > 1.0:
                add_border(scene, rng, s + length / 2, side * (back + 0.5), length + 0.6 * gap)
            s += length + max(0.3, gap * rng.uniform(0.5, 1.5))
        else:
            s += 2.0
    build_kerbside(scene, rng, side, setback)


def build_kerbside(scene: Scene, rng: Generator, side: int, setback: float) -> None:
    """Fill the strip along the kerb: cars parked on the road or half on the sidewalk, trees, lamps, signs, people."""
    kerb = scene.road.half_width
    on_road = kerb > 5.0
    parked = kerb - 1.0 if on_road else kerb + 0.6
    density, facing = rng.choice([0.1, 0.35, 0.75]), math.pi if side < 0 else 0.0
    for s in np.arange(START, LENGTH + START, 6.2):
        if rng.random() < density and clear_of_crossings(scene, s, 3.5):
            x, z, heading = scene.place(s + rng.uniform(-0.4, 0.4), side * (parked + rng.uniform(-0.1, 0.1)))
            add_car(scene, rng, (x, z, heading + facing + rng.normal() * 0.015))
    if setback < 1.0 and on_road:
        trees, conifers = kerb + 0.7, 0.0
    else:
        trees, conifers = kerb + scene.road.sidewalk + (0.5 if setback < 1.0 else 1.5), 0.25
    spacing = rng.choice([7.0, 11.0, 18.0, 40.0])
    for s in np.arange(START + 3.1, LENGTH + START, spacing):
        if clear_of_crossings(scene, s, 2.0) and rng.random() < 0.8:
            add_tree(scene, rng, scene.place(s + rng.uniform(-1, 1), side * trees), rng.uniform(4.5, 11), conifers)
    for s in np.arange(START + rng.uniform(0, 20), LENGTH + START, 28.0):
        add_furniture(scene, rng, s, side)


def build_background(scene: Scene, rng: Generator, plain: float, family: str) -> None:
    """Close the view: a second row of houses, far trees beside the street and across its end."""
    for side in (-1, 1):
        for s in np.arange(START, LENGTH + START + 60, 24.0):
            x, _ = centre_line(s, scene.road)
            far = side * rng.uniform(45, 60)
            if rng.random() < 0.5:
                add_tree(scene, rng, (x + far, s + rng.uniform(-8, 8), 0.0), rng.uniform(9, 16), 0.3)
            else:
                size = (12.0, rng.uniform(5, 14), 16.0)
                colour = vary(rng, WALLS[family][rng.integers(6)])
                material = PLAIN if rng.random() < plain else FACADE
                scene.add(material, colour, (x + far, s, 0.0), size, seed=int(rng.integers(1 << 20)))
                roof = vary(rng, ROOFS[family][rng.integers(2)])
                scene.add(ROOF, roof, (x + far, s, 0.0), (12.8, 4.0, 16.8), base=size[1], top=(0.0, 1.0))
    x, _ = centre_line(LENGTH + START, scene.road)
    for off in np.arange(-70, 71, 7.0):
        add_tree(scene, rng, (x + off, LENGTH + START + 20 + rng.uniform(-6, 6), 0.0), rng.uniform(8, 16), 0.3)


def build_traffic(scene: Scene, rng: Generator, movers: float, ego_speed_cars: float, speed: float) -> None:
    """Put moving cars on both lanes; at most one leads the ego vehicle, so that none ever run into each other."""
    if rng.random() < ego_speed_cars:
        scene.vehicles.append(Vehicle(rng.uniform(8, 22), 0.0, LANE, with_ego=True))
    elif rng.random() < movers:
        scene.vehicles.append(Vehicle(rng.uniform(9, 30), speed + rng.uniform(0.3, 2.5), LANE, with_ego=False))
    pace, s = -rng.uniform(5, 12), rng.uniform(5, 60)
    while rng.random() < movers and s < 700:
        scene.vehicles.append(Vehicle(s, pace, -LANE, with_ego=False))
        s += rng.uniform(9, 12 + 60 * (1.0 - movers))
    for index in range(len(scene.vehicles)):
        add_car(scene, rng, (0.0, 0.0, 0.0), mover=index)
