"""The colours of the procedural worlds in torch: street_texture and street_interior, written over all points at once.

Names, constants and hash are those of the compiled kernels, so that both draw the same pattern from the same seed. Points
are flat float64 tensors (M,); colours are (M, 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.street.texture import CROSSING_HALF_WIDTH, KERB_WIDTH, Road

Seed = Tensor | int


def random_at(i: Tensor | int, j: Tensor | int, seed: Seed) -> Tensor:
    """Return numbers in [0, 1) that depend on two integers and a seed only."""
    h = (i * 374761393 + j * 668265263 + seed * 2147483647) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 1540483477) & 0xFFFFFFFF
    return (h ^ (h >> 15)).double() / 4294967296.0


def cell(x: Tensor) -> Tensor:
    """Return the integer below."""
    return torch.floor(x).long()


def noise(u: Tensor, v: Tensor, seed: Seed) -> Tensor:
    """Return value noise in [0, 1), smooth over a unit lattice."""
    i, j = cell(u), cell(v)
    a, b = u - i, v - j
    a, b = a * a * (3.0 - 2.0 * a), b * b * (3.0 - 2.0 * b)
    low = torch.lerp(random_at(i, j, seed), random_at(i + 1, j, seed), a)
    high = torch.lerp(random_at(i, j + 1, seed), random_at(i + 1, j + 1, seed), a)
    return torch.lerp(low, high, b)


def noise3(x: Tensor, y: Tensor, z: Tensor, seed: Seed) -> Tensor:
    """Return value noise in [0, 1) in three dimensions."""
    k = cell(z)
    c = z - k
    c = c * c * (3.0 - 2.0 * c)
    return torch.lerp(noise(x, y, seed + 7919 * k), noise(x, y, seed + 7919 * (k + 1)), c)


def visible_share(period: Tensor | float, footprint: Tensor) -> Tensor:
    """Return how much of a pattern of this period survives a pixel of this footprint, 1 to 0."""
    return (2.0 - 3.0 * footprint / period).clamp(0.0, 1.0)


def mottle(u: Tensor, v: Tensor, period: float, seed: Seed, footprint: Tensor) -> Tensor:
    """Return zero-mean noise in [-1, 1] of four octaves, each a third of the last, from `period` [m] down."""
    total, weight = torch.zeros_like(u), 0.5
    for octave in range(4):
        total += visible_share(period, footprint) * weight * (2.0 * noise(u / period, v / period, seed + octave) - 1.0)
        period, weight = period / 3.3, weight * 0.8
    return total


def stripe(offset: Tensor, half_width: Tensor | float, footprint: Tensor) -> Tensor:
    """Return the share of a pixel covered by a stripe |offset| <= half_width [m]."""
    blur = footprint.clamp(min=1e-3)
    return ((half_width - offset.abs()) / blur + 0.5).clamp(0.0, 1.0) * (2.0 * half_width / blur).clamp(max=1.0)


def mix(colour: Tensor, other: Tensor, share: Tensor) -> Tensor:
    """Return colour (M, 3) with a share (M,) of the other."""
    return torch.lerp(colour, other.expand_as(colour), share[:, None])


def rgb(like: Tensor, r: Tensor | float, g: Tensor | float, b: Tensor | float) -> Tensor:
    """Return colours (M, 3) from channels that are numbers or (M,)."""
    return torch.stack(
        [torch.as_tensor(channel, dtype=like.dtype, device=like.device).expand_as(like) for channel in (r, g, b)], 1
    )


def centre_line(z: Tensor, road: Road) -> tuple[Tensor, Tensor]:
    """Return x and dx/dz of the road's centre at z."""
    (a, k, p), (b, m, q) = road.bend, road.bend2
    return a * (k * z + p).sin() + b * (m * z + q).sin(), a * k * (k * z + p).cos() + b * m * (m * z + q).cos()


def ground_albedo(x: Tensor, z: Tensor, footprint: Tensor, road: Road) -> Tensor:
    """Return the colour of the ground: road with marks, kerb, sidewalk, yards and side streets."""
    centre, slope = centre_line(z, road)
    lateral = (x - centre) / (1.0 + slope * slope).sqrt()
    beside = lateral.abs() - road.half_width
    to_crossing = torch.full_like(z, 1e9)
    for crossing in road.crossings.tolist():
        to_crossing = torch.minimum(to_crossing, (z - crossing).abs())
    grain = 1.0 + 0.5 * mottle(x, z, 1.5, road.seed + 11, footprint)
    kerb = 0.34 * grain * (1.0 - 0.6 * stripe((z + 0.5) % 1.0 - 0.5, 0.02, footprint))
    slab = 0.6
    u, v = lateral / slab, z / slab
    joint = torch.maximum(stripe((u % 1.0 - 0.5) * slab, 0.012, footprint), stripe((v % 1.0 - 0.5) * slab, 0.012, footprint))
    tone = 1.0 + 0.25 * visible_share(slab, footprint) * (random_at(cell(u + 0.5), cell(v + 0.5), road.seed) - 0.5)
    paved = 0.24 * grain * tone * (1.0 - 0.5 * joint)
    dry = noise(x / 6.0, z / 6.0, road.seed + 5)
    blade = 1.0 + 0.9 * mottle(x, z, 0.9, road.seed + 6, footprint)
    colour = rgb(x, (0.08 + 0.1 * dry) * blade, (0.13 + 0.05 * dry) * blade, 0.04 * blade)
    colour = torch.where(((beside < road.sidewalk) | road.paved_yards)[:, None], rgb(x, paved, paved * 0.96, paved * 0.9), colour)
    colour = torch.where((beside < KERB_WIDTH)[:, None], rgb(x, kerb, kerb, kerb * 0.97), colour)
    asphalt = asphalt_albedo(x, z, lateral, to_crossing, footprint, road)
    return torch.where(((beside < 0.0) | (to_crossing < CROSSING_HALF_WIDTH))[:, None], asphalt, colour)


def asphalt_albedo(x: Tensor, z: Tensor, lateral: Tensor, to_crossing: Tensor, footprint: Tensor, road: Road) -> Tensor:
    """Return the colour of the carriageway: worn asphalt, repairs, cracks, lane marks."""
    grey = road.asphalt * (
        1.0 + 0.45 * mottle(x, z, 4.0, road.seed, footprint) + 0.25 * mottle(x, z, 0.12, road.seed + 9, footprint)
    )
    track = (lateral.abs() - 1.75).abs() - 0.75
    grey = grey * (1.0 + 0.12 * (-8.0 * track * track).exp())
    grey = torch.where(random_at(cell(lateral / 1.7), cell(z / 4.3), road.seed + 1) > 0.93, 0.65 * grey, grey)
    crack = noise(x / 2.5 + 0.3 * noise(x * 2.0, z * 2.0, road.seed + 2), z / 2.5, road.seed + 3) - 0.5
    grey = grey * (1.0 - 0.6 * stripe(crack * 2.5, 0.02, footprint))
    mark = torch.zeros_like(x)
    if road.centre_line:
        mark = stripe(lateral, 0.06, footprint)
    if road.centre_line == 1:
        mark = mark * stripe(z % 9.0 - 4.5, 1.5, footprint)
    if road.edge_line:
        mark = torch.maximum(mark, stripe(lateral.abs() - road.half_width + 0.3, 0.06, footprint))
    wear = 0.75 + 0.4 * mottle(x, z, 0.5, road.seed + 4, footprint)
    grey = grey + (to_crossing > CROSSING_HALF_WIDTH + 1.0) * mark * wear * (0.6 - grey)
    return rgb(x, grey, grey * 0.99, grey * 0.97)


def brick_albedo(u: Tensor, h: Tensor, footprint: Tensor, colour: Tensor, seed: Tensor) -> Tensor:
    """Return the colour of bare brickwork at u along and h above its foot [m]."""
    row = cell(h / 0.1)
    i = u / 0.3 + 0.5 * (row % 2)
    tone = 1.0 + 0.7 * visible_share(0.2, footprint) * (random_at(cell(i), row, seed) - 0.5)
    mortar = torch.maximum(
        stripe((h / 0.1 - row - 0.5) * 0.1 - 0.04, 0.008, footprint), stripe((i % 1.0 - 0.5) * 0.3, 0.008, footprint)
    )
    return mix(colour * tone[:, None], colour.new_tensor([0.4, 0.38, 0.35]), mortar)


def facade_albedo(u: Tensor, h: Tensor, footprint: Tensor, colour: Tensor, seed: Tensor) -> Tensor:
    """Return the colour of a house wall of this colour (M, 3) with stains, plinth and windows."""
    stain = (1.0 + 0.22 * mottle(u, h * 0.5, 2.5, seed + 1, footprint)) * torch.where(h < 0.6, 0.6, 1.0)
    wall = colour * stain[:, None]
    pitch, storey = 2.2 + 1.8 * random_at(1, 0, seed), 2.8
    column, floor = cell(u / pitch), cell(h / storey)
    which = random_at(column, floor, seed + 2)
    across, up = (u / pitch - column - 0.5) * pitch, h - floor * storey - 1.6
    half_width, half_height = pitch * (0.17 + 0.1 * random_at(2, 0, seed)), 0.5 + 0.35 * random_at(3, 0, seed)
    inside = stripe(across, half_width, footprint) * stripe(up, half_height, footprint)
    frame = stripe(across, half_width + 0.1, footprint) * stripe(up, half_height + 0.1, footprint)
    bar = torch.maximum(stripe(across, 0.035, footprint), stripe(up - half_height * 0.3, 0.03, footprint))
    pane = 0.025 + 0.12 * which * which * (0.6 + 0.4 * noise(across * 2.0, up * 2.0, seed + 3))
    closed = which > 0.85
    bar = torch.where(closed, 0.5 * stripe((h / 0.09) % 1.0 - 0.5, 0.25, footprint / 0.09), bar)
    pane = torch.where(closed, 0.35, pane)
    pane = pane + bar * (0.5 - pane)
    framed = mix(wall, wall.new_tensor(0.62), frame)
    window = mix(framed, rgb(u, pane, pane, pane * 1.05), inside)
    return torch.where((which < 0.12)[:, None], wall, window)


def paint_albedo(
    x: Tensor, h: Tensor, z: Tensor, half_z: Tensor, height: Tensor, colour: Tensor, footprint: Tensor
) -> Tensor:  # fmt: skip
    """Return the colour of a car body at local x, h, z [m]: paint, wheels, lamps, plate; the front is +z."""
    painted = colour * (1.0 - 0.7 * stripe((z - 0.1).abs() - 0.55, 0.012, footprint))[:, None]
    front, end = z > 0.0, z.abs() > half_z - 0.12
    grille = end & front & (x.abs() < 0.5) & (h > 0.45 * height) & (h < 0.75 * height)
    plate = end & (x.abs() < 0.27) & ((h - 0.3 * height).abs() < 0.07)
    lamp = end & (x.abs() > 0.55) & (h > 0.5 * height) & (h < 0.85 * height)
    to_axle = torch.minimum(torch.hypot(z + 0.62 * half_z, h - 0.12), torch.hypot(z - 0.62 * half_z, h - 0.12))
    hub = 0.015 + 0.3 * stripe(to_axle, 0.2, footprint)
    for where, paint in (
        (grille, rgb(x, 0.03, 0.03, 0.03)),
        (plate, rgb(x, 0.65, 0.65, 0.6)),
        (lamp & front, rgb(x, 0.75, 0.75, 0.7)),
        (lamp & ~front, rgb(x, 0.4, 0.02, 0.02)),
        (h < 0.1, rgb(x, 0.02, 0.02, 0.02)),
        (to_axle < 0.36, rgb(x, hub, hub, hub)),
    ):
        painted = torch.where(where[:, None], paint, painted)
    return painted


def glass_albedo(
    h: Tensor, along: Tensor, half_along: Tensor, height: Tensor, top: Tensor, colour: Tensor, footprint: Tensor
) -> Tensor:
    """Return the colour of a car's cabin: dark panes between painted pillars under a painted roof."""
    pillar = torch.maximum(stripe(along, 0.05, footprint), stripe(along.abs() - half_along, 0.07, footprint))
    sky = 0.02 + 0.06 * h / height
    panes = mix(rgb(h, sky, sky * 1.05, sky * 1.15), colour, pillar)
    return torch.where((top | (h > 0.88 * height))[:, None], colour, panes)
