"""Colours of floors, wallpaper and furniture, compiled with numba; like street_texture, but without the file cache.

(numba's cache does not see that a callee in another file has changed.)
"""

from __future__ import annotations

import math

from training.data.street.kernels import kernel
from training.data.street.texture import (
    BARE,
    BOOKS,
    CLOTH,
    DOTTED,
    PICTURE,
    PLANKS,
    STRIPED,
    TILED,
    TILES,
    WINDOW,
    WOOD,
    mottle,
    noise,
    random_at,
    stripe,
    visible_share,
)


@kernel
def wood_tone(u, v, seed, footprint):
    """Return the brightness of wood whose grain runs along v [m]."""
    return 1.0 + 0.5 * mottle(u * 6.0, v * 0.7, 1.0, seed, 3.0 * footprint)


@kernel
def floor_albedo(x, z, footprint, road):
    """Return the colour of a ground that is no road: BARE, PLANKS, TILES or CARPET."""
    r, g, b = road.colour
    if road.kind == BARE:
        tone = 1.0 + 0.02 * mottle(x, z, 6.0, road.seed, footprint)  # below the sensor's noise
    elif road.kind == PLANKS:
        column = math.floor(x / 0.14)
        shifted = z / 1.6 + random_at(column, 0, road.seed)
        row = math.floor(shifted)
        joint = max(
            stripe((x / 0.14 - column - 0.5) * 0.14 - 0.068, 0.004, footprint),
            stripe((shifted - row - 0.5) * 1.6 - 0.798, 0.004, footprint),
        )
        tone = 1.0 + 0.6 * visible_share(0.14, footprint) * (random_at(column, row, road.seed + 1) - 0.5)
        tone *= wood_tone(x, z, road.seed + 2, footprint) * (1.0 - 0.6 * joint)
    elif road.kind == TILES:
        u, v = x / 0.45, z / 0.45
        i, j = math.floor(u), math.floor(v)
        joint = max(stripe((u - i - 0.5) * 0.45 - 0.22, 0.006, footprint), stripe((v - j - 0.5) * 0.45 - 0.22, 0.006, footprint))
        dark = 0.55 * ((i + j) % 2) * random_at(0, 0, road.seed)
        tone = (1.0 - dark * visible_share(0.45, footprint)) * (1.0 + 0.2 * mottle(x, z, 0.5, road.seed, footprint))
        tone *= 1.0 - 0.45 * joint
    else:
        tone = 1.0 + 0.5 * mottle(x, z, 0.08, road.seed, footprint) + 0.3 * mottle(x, z, 1.2, road.seed + 1, footprint)
    return r * tone, g * tone, b * tone


@kernel
def interior_albedo(u, h, footprint, material, colour, seed, length, height):
    """Return the colour of a wall or a piece of furniture, u along (0 to length) and h above its foot [m]; GLOW is plain."""
    r, g, b = colour
    if material in (PICTURE, WINDOW):
        return framed_albedo(u, h, footprint, material, colour, seed, length, height)
    tone = 1.0
    if material == STRIPED:
        period = 0.12 + 0.25 * random_at(1, 0, seed)
        band = stripe((u / period) % 1.0 - 0.5, 0.2, footprint / period) - 0.4
        tone = (1.0 - 0.45 * band) * (1.0 + 0.08 * mottle(u, h, 1.0, seed, footprint))
    elif material == DOTTED:
        period = 0.15 + 0.2 * random_at(1, 0, seed)
        row = math.floor(h / period)
        across = (u / period + 0.5 * (row % 2)) % 1.0 - 0.5
        dot = stripe(math.hypot(across, h / period - row - 0.5), 0.22, footprint / period)
        tone = (1.08 - 0.5 * dot) * (1.0 + 0.08 * mottle(u, h, 1.0, seed, footprint))
    elif material == TILED:
        period = 0.3 + 0.3 * random_at(1, 0, seed)
        joint = max(
            stripe(((u / period) % 1.0 - 0.5) * period, 0.006, footprint),
            stripe(((h / period) % 1.0 - 0.5) * period, 0.006, footprint),
        )
        tone = (1.0 - 0.4 * joint) * (1.0 + 0.1 * mottle(u, h, 0.4, seed, footprint))
    elif material == CLOTH:
        tone = 1.0 + 0.4 * mottle(u, h, 0.3, seed, footprint) + 0.2 * mottle(u, h, 0.03, seed + 1, footprint)
    elif material == BOOKS:
        shelf = math.floor(h / 0.34)
        book = math.floor(u / 0.045 + 3.0 * random_at(shelf, 1, seed))
        up = (h - 0.34 * shelf) / 0.34
        if up > 0.1 and up < 0.65 + 0.3 * random_at(book, shelf, seed + 1) and abs(u - 0.5 * length) < 0.5 * length - 0.03:
            share = visible_share(0.045, footprint)
            r += share * (0.5 * random_at(book, shelf, seed + 2) - r)
            g += share * (0.4 * random_at(book, shelf, seed + 3) - g)
            b += share * (0.4 * random_at(book, shelf, seed + 4) - b)
        elif up > 0.1:
            tone = 0.25  # the dark behind the books
    elif material == WOOD:
        tone = wood_tone(u, h, seed, footprint)
    return r * tone, g * tone, b * tone


@kernel
def framed_albedo(u, h, footprint, material, colour, seed, length, height):
    """Return the colour of a picture (a few soft shapes) or the radiance of a window (sky over green, a cross of bars)."""
    rim = 0.05 if material == WINDOW else 0.03
    inside = stripe(u - 0.5 * length, 0.5 * length - rim, footprint) * stripe(h - 0.5 * height, 0.5 * height - rim, footprint)
    if material == WINDOW:
        bar = max(stripe(u - 0.5 * length, 0.025, footprint), stripe(h - 0.6 * height, 0.025, footprint))
        inside *= 1.0 - bar
        hills = 0.3 * height * (0.5 + noise(u * 2.0, 0.0, seed))
        sky = min(1.0, max(0.0, (h - hills) / max(0.02, footprint) + 0.5))
        leaf = 0.3 + 0.5 * noise(u * 9.0, h * 9.0, seed + 1)
        r, g, b = (
            0.5 * leaf + sky * (1.7 - 0.5 * leaf),
            0.7 * leaf + sky * (1.85 - 0.7 * leaf),
            0.3 * leaf + sky * (2.0 - 0.3 * leaf),
        )
        frame = 0.55
    else:
        a, c = noise(u * 4.0, h * 4.0, seed + 1), noise(u * 9.0, h * 9.0, seed + 2)
        r, g, b = colour[0] * (0.3 + 1.4 * a), colour[1] * (0.3 + 1.4 * c), colour[2] * (0.3 + 1.4 * (1.0 - a))
        frame = 0.05 + 0.4 * random_at(2, 0, seed)
    return frame + inside * (r - frame), frame + inside * (g - frame), frame + inside * (b - frame)
