"""Procedural colours of the street world: hash noise and the albedo of every material, compiled with numba.

Every function is deterministic in its arguments. `footprint` is the width [m] of one pixel on the surface: detail finer
than it fades to its mean, so that a texture does not shimmer from one frame to the next.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.street.kernels import exact_kernel, kernel

PLAIN, FACADE, BRICK, ROOF, FOLIAGE, BARK, METAL, PAINT, GLASS, RUBBER, SIGN = range(11)
STRIPED, DOTTED, TILED, WOOD, CLOTH, BOOKS, PICTURE, WINDOW, GLOW = range(11, 20)  # indoors; the last two give light
ROAD, BARE, PLANKS, TILES, CARPET = range(5)  # kinds of ground; BARE has no texture

Colour = tuple[float, float, float]


class Road(NamedTuple):
    """The ground: a centre line x(z), a sum of two sines [m], with a street's cross-section, mirrored left and right [m].

    A ground of another kind than ROAD is the same everywhere, in its colour.
    """

    bend: tuple[float, float, float]  # amplitude [m], wave number [1/m], phase of the long bend
    bend2: tuple[float, float, float]  # the same of the short bend
    half_width: float  # carriageway from the centre to the kerb
    sidewalk: float  # width behind the kerb
    asphalt: float  # albedo
    centre_line: int  # 0 none, 1 dashed, 2 solid
    edge_line: bool
    paved_yards: bool  # paving instead of grass behind the sidewalk
    crossings: NDArray[np.float64]  # z of the side streets
    seed: int
    kind: int = ROAD
    colour: Colour = (0.0, 0.0, 0.0)  # albedo of a ground that is no road


CROSSING_HALF_WIDTH = 3.5  # [m]
KERB_WIDTH = 0.18  # [m]


@exact_kernel
def random_at(i, j, seed):
    """Return a number in [0, 1) that depends on two integers and a seed only."""
    h = (i * 374761393 + j * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 1540483477) & 0xFFFFFFFF
    return (h ^ (h >> 15)) / 4294967296.0


@kernel
def noise(u, v, seed):
    """Return value noise in [0, 1), smooth over a unit lattice."""
    i, j = math.floor(u), math.floor(v)
    a, b = u - i, v - j
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    i, j = int(i), int(j)
    low = random_at(i, j, seed) * (1.0 - a) + random_at(i + 1, j, seed) * a
    high = random_at(i, j + 1, seed) * (1.0 - a) + random_at(i + 1, j + 1, seed) * a
    return low * (1.0 - b) + high * b


@kernel
def noise3(x, y, z, seed):
    """Return value noise in [0, 1) in three dimensions."""
    k = math.floor(z)
    c = z - k
    c = c * c * (3.0 - 2.0 * c)
    k = int(k)
    return noise(x, y, seed + 7919 * k) * (1.0 - c) + noise(x, y, seed + 7919 * (k + 1)) * c


@kernel
def visible_share(period, footprint):
    """Return how much of a pattern of this period survives a pixel of this footprint, 1 to 0."""
    return min(1.0, max(0.0, 2.0 - 3.0 * footprint / period))


@kernel
def mottle(u, v, period, seed, footprint):
    """Return zero-mean noise in [-1, 1] of four octaves, each a third of the last, from `period` [m] down."""
    total, weight = 0.0, 0.5
    for octave in range(4):
        share = visible_share(period, footprint)
        if share <= 0.0:
            break
        total += share * weight * (2.0 * noise(u / period, v / period, seed + octave) - 1.0)
        period, weight = period / 3.3, weight * 0.8
    return total


@kernel
def stripe(offset, half_width, footprint):
    """Return the share of a pixel covered by a stripe |offset| <= half_width [m]."""
    blur = max(footprint, 1e-3)
    return min(1.0, max(0.0, (half_width - abs(offset)) / blur + 0.5)) * min(1.0, 2.0 * half_width / blur)


@kernel
def centre_line(z, road):
    """Return (x, dx/dz) of the road's centre at z."""
    a, k, p = road.bend
    b, m, q = road.bend2
    return a * math.sin(k * z + p) + b * math.sin(m * z + q), a * k * math.cos(k * z + p) + b * m * math.cos(m * z + q)


@kernel
def ground_albedo(x, z, footprint, road):
    """Return the colour of the ground: road with marks, kerb, sidewalk, yards and side streets."""
    centre, slope = centre_line(z, road)
    lateral = (x - centre) / math.sqrt(1.0 + slope * slope)
    beside = abs(lateral) - road.half_width
    to_crossing = 1e9
    for i in range(len(road.crossings)):
        to_crossing = min(to_crossing, abs(z - road.crossings[i]))
    if beside < 0.0 or to_crossing < CROSSING_HALF_WIDTH:
        return asphalt_albedo(x, z, lateral, to_crossing, footprint, road)
    grain = 1.0 + 0.5 * mottle(x, z, 1.5, road.seed + 11, footprint)
    if beside < KERB_WIDTH:
        joint = stripe((z + 0.5) % 1.0 - 0.5, 0.02, footprint)
        grey = 0.34 * grain * (1.0 - 0.6 * joint)
        return grey, grey, grey * 0.97
    if beside < road.sidewalk or road.paved_yards:
        slab = 0.6
        u, v = lateral / slab, z / slab
        joint = max(stripe((u % 1.0 - 0.5) * slab, 0.012, footprint), stripe((v % 1.0 - 0.5) * slab, 0.012, footprint))
        tone = 1.0 + 0.25 * visible_share(slab, footprint) * (
            random_at(math.floor(u + 0.5), math.floor(v + 0.5), road.seed) - 0.5
        )
        grey = 0.24 * grain * tone * (1.0 - 0.5 * joint)
        return grey, grey * 0.96, grey * 0.9
    dry = noise(x / 6.0, z / 6.0, road.seed + 5)
    blade = 1.0 + 0.9 * mottle(x, z, 0.9, road.seed + 6, footprint)
    return (0.08 + 0.1 * dry) * blade, (0.13 + 0.05 * dry) * blade, 0.04 * blade


@kernel
def asphalt_albedo(x, z, lateral, to_crossing, footprint, road):
    """Return the colour of the carriageway: worn asphalt, repairs, cracks, lane marks."""
    grey = road.asphalt * (
        1.0 + 0.45 * mottle(x, z, 4.0, road.seed, footprint) + 0.25 * mottle(x, z, 0.12, road.seed + 9, footprint)
    )
    track = abs(abs(lateral) - 1.75) - 0.75  # wheels polish two tracks per lane
    grey *= 1.0 + 0.12 * math.exp(-8.0 * track * track)
    if random_at(math.floor(lateral / 1.7), math.floor(z / 4.3), road.seed + 1) > 0.93:
        grey *= 0.65  # a repair in fresh asphalt
    crack = noise(x / 2.5 + 0.3 * noise(x * 2.0, z * 2.0, road.seed + 2), z / 2.5, road.seed + 3) - 0.5
    grey *= 1.0 - 0.6 * stripe(crack * 2.5, 0.02, footprint)
    if to_crossing > CROSSING_HALF_WIDTH + 1.0:
        mark = 0.0
        if road.centre_line == 2:
            mark = stripe(lateral, 0.06, footprint)
        elif road.centre_line == 1:
            mark = stripe(lateral, 0.06, footprint) * stripe(z % 9.0 - 4.5, 1.5, footprint)
        if road.edge_line:
            mark = max(mark, stripe(abs(lateral) - road.half_width + 0.3, 0.06, footprint))
        wear = 0.75 + 0.4 * mottle(x, z, 0.5, road.seed + 4, footprint)
        grey += mark * wear * (0.6 - grey)
    return grey, grey * 0.99, grey * 0.97


@kernel
def wall_albedo(u, h, footprint, material, colour, seed):
    """Return the colour of a house wall at u along and h above its foot [m]: PLAIN, FACADE or BRICK."""
    r, g, b = colour
    if material == PLAIN:
        return r, g, b
    if material == BRICK:
        row = math.floor(h / 0.1)
        i = u / 0.3 + 0.5 * (row % 2)
        tone = 1.0 + 0.7 * visible_share(0.2, footprint) * (random_at(math.floor(i), row, seed) - 0.5)
        mortar = max(
            stripe((h / 0.1 - row - 0.5) * 0.1 - 0.04, 0.008, footprint), stripe((i % 1.0 - 0.5) * 0.3, 0.008, footprint)
        )
        r, g, b = r * tone + mortar * (0.4 - r), g * tone + mortar * (0.38 - g), b * tone + mortar * (0.35 - b)
    stain = 1.0 + 0.22 * mottle(u, h * 0.5, 2.5, seed + 1, footprint)
    if h < 0.6:
        stain *= 0.6  # the plinth
    r, g, b = r * stain, g * stain, b * stain
    pitch, storey = 2.2 + 1.8 * random_at(1, 0, seed), 2.8
    column, floor = math.floor(u / pitch), math.floor(h / storey)
    which = random_at(column, floor, seed + 2)
    if which < 0.12:
        return r, g, b  # no window here
    across, up = (u / pitch - column - 0.5) * pitch, h - floor * storey - 1.6
    half_width, half_height = pitch * (0.17 + 0.1 * random_at(2, 0, seed)), 0.5 + 0.35 * random_at(3, 0, seed)
    inside = stripe(across, half_width, footprint) * stripe(up, half_height, footprint)
    frame = stripe(across, half_width + 0.1, footprint) * stripe(up, half_height + 0.1, footprint)
    bar = max(stripe(across, 0.035, footprint), stripe(up - half_height * 0.3, 0.03, footprint))
    pane = 0.025 + 0.12 * which * which * (0.6 + 0.4 * noise(across * 2.0, up * 2.0, seed + 3))
    if which > 0.85:
        pane, bar = 0.35, 0.5 * stripe((h / 0.09) % 1.0 - 0.5, 0.25, footprint / 0.09)  # a closed shutter
    trim = 0.62
    pane += bar * (0.5 - pane)
    r, g, b = r + frame * (trim - r), g + frame * (trim - g), b + frame * (trim - b)
    return r + inside * (pane - r), g + inside * (pane - g), b + inside * (pane * 1.05 - b)


@kernel
def paint_albedo(x, h, z, half_z, height, colour, footprint):
    """Return the colour of a car body at local x, h, z [m]: paint, wheels, lamps, plate; the front is +z."""
    r, g, b = colour
    for axle in (-0.62 * half_z, 0.62 * half_z):
        d = math.hypot(z - axle, h - 0.12)
        if d < 0.36:
            hub = 0.3 * stripe(d, 0.2, footprint)
            return 0.015 + hub, 0.015 + hub, 0.015 + hub
    if h < 0.1:
        return 0.02, 0.02, 0.02
    if abs(z) > half_z - 0.12:
        if abs(x) > 0.55 and height * 0.5 < h < height * 0.85:
            return (0.75, 0.75, 0.7) if z > 0.0 else (0.4, 0.02, 0.02)
        if abs(x) < 0.27 and abs(h - 0.3 * height) < 0.07:
            return 0.65, 0.65, 0.6
        if z > 0.0 and abs(x) < 0.5 and 0.45 * height < h < 0.75 * height:
            return 0.03, 0.03, 0.03
    seam = 1.0 - 0.7 * stripe(abs(z - 0.1) - 0.55, 0.012, footprint)
    return r * seam, g * seam, b * seam


@kernel
def glass_albedo(h, along, half_along, height, top, colour, footprint):
    """Return the colour of a car's cabin: dark panes between painted pillars under a painted roof."""
    if top or h > 0.88 * height:
        return colour
    pillar = max(stripe(along, 0.05, footprint), stripe(abs(along) - half_along, 0.07, footprint))
    r, g, b = colour
    sky = 0.02 + 0.06 * h / height  # a pane mirrors more sky the higher it is
    return sky + pillar * (r - sky), sky * 1.05 + pillar * (g - sky), sky * 1.15 + pillar * (b - sky)
