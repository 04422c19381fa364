"""The colours of floors, wallpaper and furniture in torch: the twin of street_interior."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.street.texture import BARE, BOOKS, CLOTH, DOTTED, PLANKS, STRIPED, TILED, TILES, WINDOW, WOOD, Road
from training.data.street.twin.texture import cell, mix, mottle, noise, random_at, rgb, stripe, visible_share


def wood_tone(u: Tensor, v: Tensor, seed: Tensor | int, footprint: Tensor) -> Tensor:
    """Return the brightness of wood whose grain runs along v [m]."""
    return 1.0 + 0.5 * mottle(u * 6.0, v * 0.7, 1.0, seed, 3.0 * footprint)


def floor_albedo(x: Tensor, z: Tensor, footprint: Tensor, road: Road) -> Tensor:
    """Return the colour (M, 3) of a ground that is no road: BARE, PLANKS, TILES or CARPET."""
    if road.kind == BARE:
        tone = 1.0 + 0.02 * mottle(x, z, 6.0, road.seed, footprint)
    elif road.kind == PLANKS:
        column = cell(x / 0.14)
        shifted = z / 1.6 + random_at(column, 0, road.seed)
        row = cell(shifted)
        joint = torch.maximum(
            stripe((x / 0.14 - column - 0.5) * 0.14 - 0.068, 0.004, footprint),
            stripe((shifted - row - 0.5) * 1.6 - 0.798, 0.004, footprint),
        )
        tone = 1.0 + 0.6 * visible_share(0.14, footprint) * (random_at(column, row, road.seed + 1) - 0.5)
        tone = tone * wood_tone(x, z, road.seed + 2, footprint) * (1.0 - 0.6 * joint)
    elif road.kind == TILES:
        u, v = x / 0.45, z / 0.45
        i, j = cell(u), cell(v)
        joint = torch.maximum(
            stripe((u - i - 0.5) * 0.45 - 0.22, 0.006, footprint), stripe((v - j - 0.5) * 0.45 - 0.22, 0.006, footprint)
        )
        dark = 0.55 * ((i + j) % 2) * random_at(torch.zeros_like(i), 0, road.seed)
        tone = (1.0 - dark * visible_share(0.45, footprint)) * (1.0 + 0.2 * mottle(x, z, 0.5, road.seed, footprint))
        tone = tone * (1.0 - 0.45 * joint)
    else:
        tone = 1.0 + 0.5 * mottle(x, z, 0.08, road.seed, footprint) + 0.3 * mottle(x, z, 1.2, road.seed + 1, footprint)
    return tone[:, None] * tone.new_tensor(road.colour)


def striped(u: Tensor, h: Tensor, seed: Tensor, footprint: Tensor) -> Tensor:
    """Return the brightness of striped wallpaper."""
    period = 0.12 + 0.25 * random_at(1, 0, seed)
    band = stripe((u / period) % 1.0 - 0.5, 0.2, footprint / period) - 0.4
    return (1.0 - 0.45 * band) * (1.0 + 0.08 * mottle(u, h, 1.0, seed, footprint))


def dotted(u: Tensor, h: Tensor, seed: Tensor, footprint: Tensor) -> Tensor:
    """Return the brightness of dotted wallpaper."""
    period = 0.15 + 0.2 * random_at(1, 0, seed)
    row = cell(h / period)
    across = (u / period + 0.5 * (row % 2)) % 1.0 - 0.5
    dot = stripe(torch.hypot(across, h / period - row - 0.5), 0.22, footprint / period)
    return (1.08 - 0.5 * dot) * (1.0 + 0.08 * mottle(u, h, 1.0, seed, footprint))


def tiled(u: Tensor, h: Tensor, seed: Tensor, footprint: Tensor) -> Tensor:
    """Return the brightness of wall tiles."""
    period = 0.3 + 0.3 * random_at(1, 0, seed)
    joint = torch.maximum(
        stripe(((u / period) % 1.0 - 0.5) * period, 0.006, footprint),
        stripe(((h / period) % 1.0 - 0.5) * period, 0.006, footprint),
    )
    return (1.0 - 0.4 * joint) * (1.0 + 0.1 * mottle(u, h, 0.4, seed, footprint))


def cloth(u: Tensor, h: Tensor, seed: Tensor, footprint: Tensor) -> Tensor:
    """Return the brightness of cloth, plaster and cardboard."""
    return 1.0 + 0.4 * mottle(u, h, 0.3, seed, footprint) + 0.2 * mottle(u, h, 0.03, seed + 1, footprint)


TONES = {STRIPED: striped, DOTTED: dotted, TILED: tiled, CLOTH: cloth, WOOD: wood_tone}


def interior_albedo(
    u: Tensor, h: Tensor, footprint: Tensor, material: int, colour: Tensor, seed: Tensor, length: Tensor, height: Tensor
) -> Tensor:  # fmt: skip
    """Return the colour (M, 3) of walls or furniture of one material, u along (0 to length) and h above the foot [m]."""
    if material in TONES:
        return colour * TONES[material](u, h, seed, footprint)[:, None]
    if material == BOOKS:
        return books_albedo(u, h, footprint, colour, seed, length)
    return framed_albedo(u, h, footprint, material, colour, seed, length, height)


def books_albedo(u: Tensor, h: Tensor, footprint: Tensor, colour: Tensor, seed: Tensor, length: Tensor) -> Tensor:
    """Return the colour (M, 3) of a bookshelf."""
    shelf = cell(h / 0.34)
    book = cell(u / 0.045 + 3.0 * random_at(shelf, 1, seed))
    up = (h - 0.34 * shelf) / 0.34
    cover = rgb(u, *(share * random_at(book, shelf, seed + n) for share, n in ((0.5, 2), (0.4, 3), (0.4, 4))))
    is_book = (up < 0.65 + 0.3 * random_at(book, shelf, seed + 1)) & ((u - 0.5 * length).abs() < 0.5 * length - 0.03)
    books = mix(colour, cover, visible_share(0.045, footprint))
    behind = torch.where(is_book[:, None], books, 0.25 * colour)
    return torch.where((up > 0.1)[:, None], behind, colour)


def framed_albedo(
    u: Tensor, h: Tensor, footprint: Tensor, material: int, colour: Tensor, seed: Tensor, length: Tensor, height: Tensor
) -> Tensor:  # fmt: skip
    """Return the colour (M, 3) of pictures or the radiance of windows."""
    rim = 0.05 if material == WINDOW else 0.03
    inside = stripe(u - 0.5 * length, 0.5 * length - rim, footprint) * stripe(h - 0.5 * height, 0.5 * height - rim, footprint)
    if material == WINDOW:
        bar = torch.maximum(stripe(u - 0.5 * length, 0.025, footprint), stripe(h - 0.6 * height, 0.025, footprint))
        inside = inside * (1.0 - bar)
        hills = 0.3 * height * (0.5 + noise(u * 2.0, torch.zeros_like(u), seed))
        sky = ((h - hills) / footprint.clamp(min=0.02) + 0.5).clamp(0.0, 1.0)
        leaf = 0.3 + 0.5 * noise(u * 9.0, h * 9.0, seed + 1)
        picture = mix(rgb(u, 0.5 * leaf, 0.7 * leaf, 0.3 * leaf), colour.new_tensor([1.7, 1.85, 2.0]), sky)
        frame = torch.full_like(u, 0.55)
    else:
        a, c = noise(u * 4.0, h * 4.0, seed + 1), noise(u * 9.0, h * 9.0, seed + 2)
        picture = colour * (0.3 + 1.4 * torch.stack([a, c, 1.0 - a], 1))
        frame = 0.05 + 0.4 * random_at(2, 0, seed)
    return mix(frame[:, None].expand_as(picture), picture, inside)
