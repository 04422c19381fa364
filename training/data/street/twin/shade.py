"""The light of the procedural worlds in torch, the twin of street_shade, street_light and street_weather.

Points are flat: (M,) float64 tensors of all surface points of all views together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.street.cast import ELLIPSOID, FRUSTUM, GROUND
from training.data.street.light import CELL, CELLS_X, CELLS_Z, LAMP_REACH, Light
from training.data.street.shade import LAMP_COLOUR, SNOW_ALBEDO
from training.data.street.texture import (
    BARK,
    BRICK,
    FACADE,
    FOLIAGE,
    GLASS,
    GLOW,
    PAINT,
    ROAD,
    ROOF,
    STRIPED,
    WINDOW,
    Road,
)
from training.data.street.twin.cast import Part, Views, intersect, to_part
from training.data.street.twin.interior import floor_albedo, interior_albedo
from training.data.street.twin.texture import (
    brick_albedo,
    facade_albedo,
    glass_albedo,
    ground_albedo,
    mix,
    mottle,
    noise,
    noise3,
    paint_albedo,
    random_at,
    stripe,
)
from training.data.street.weather import LAYERS

PAIRS_AT_ONCE = 1 << 22  # of a point and a part that may shade it


def part_surface(x: Tensor, h: Tensor, z: Tensor, part: Part) -> Tensor:
    """Return the outward normals (M, 3: x, h, z) at points of the parts' surfaces, in their axes."""
    half = 0.5 * part.height
    ball = torch.stack([x / part.half_x**2, (h - half) / half**2, z / part.half_z**2], 1)
    ball = ball / ball.norm(dim=1, keepdim=True)
    kx, kz = (part.half_x - part.top_x) / part.height, (part.half_z - part.top_z) / part.height
    from_x, from_z = (part.half_x - kx * h - x.abs()).abs(), (part.half_z - kz * h - z.abs()).abs()
    from_top, from_foot, none = (part.height - h).abs(), h.abs(), torch.zeros_like(x)
    level = torch.stack([none, torch.where(from_top < from_foot, 1.0, -1.0).to(x), none], 1)
    side = torch.stack([torch.copysign(torch.ones_like(x), x), kx, none], 1) / (1.0 + kx * kx).sqrt()[:, None]
    end = torch.stack([none, kz, torch.copysign(torch.ones_like(z), z)], 1) / (1.0 + kz * kz).sqrt()[:, None]
    normal = torch.where((from_x < from_z)[:, None], side, end)
    normal = torch.where((torch.minimum(from_top, from_foot) < torch.minimum(from_x, from_z))[:, None], level, normal)
    return torch.where((part.shape == ELLIPSOID)[:, None], ball, normal)


def part_albedo(x: Tensor, h: Tensor, z: Tensor, normal: Tensor, part: Part, footprint: Tensor) -> Tensor:
    """Return the colours (M, 3) of the parts at points and normals in their axes, one material after the other."""
    albedo = torch.stack([part.r, part.g, part.b], 1)
    for material in part.material.unique().long().tolist():
        where = torch.nonzero(part.material == material)[:, 0]
        chosen = Part(*(field[where] for field in part))
        albedo[where] = material_albedo(material, x[where], h[where], z[where], normal[where], chosen, footprint[where])
    return albedo


def material_albedo(material: int, x: Tensor, h: Tensor, z: Tensor, normal: Tensor, part: Part, footprint: Tensor) -> Tensor:
    """Return the colours (M, 3) of points that are all of one material."""
    colour, seed = torch.stack([part.r, part.g, part.b], 1), part.seed.long()
    sideways = normal[:, 0].abs() > normal[:, 2].abs()
    along, half_along = torch.where(sideways, z, x), torch.where(sideways, part.half_z, part.half_x)
    if material == PAINT:
        return paint_albedo(x, h, z, part.half_z, part.height, colour, footprint)
    if material == GLASS:
        narrow = half_along * (1.0 - 0.3 * h / part.height)
        return glass_albedo(h, along, narrow, part.height, normal[:, 1] > 0.9, colour, footprint)
    if material in (FACADE, BRICK):
        u = along + half_along
        bare = brick_albedo(u, h, footprint, colour, seed) if material == BRICK else colour
        return facade_albedo(u, h, footprint, bare, seed)
    if STRIPED <= material < GLOW:
        level = normal[:, 1].abs() > 0.9
        u, v = torch.where(level, x + part.half_x, along + half_along), torch.where(level, z + part.half_z, h)
        length, height = torch.where(level, 2 * part.half_x, 2 * half_along), torch.where(level, 2 * part.half_z, part.height)
        return interior_albedo(u, v, footprint, material, colour, seed, length, height)
    if material == FOLIAGE:
        tone = 0.3 + 1.5 * noise3(x * 1.4, h * 1.4, z * 1.4, seed) ** 2
        tone = tone * torch.where(footprint < 0.15, 0.4 + 1.2 * noise3(x * 7.0, h * 7.0, z * 7.0, seed + 1), 1.0)
        return colour * tone[:, None]
    if material == ROOF:
        rows = 0.5 * stripe(h % 0.35 - 0.17, 0.04, footprint) + 0.2 * stripe(along % 0.3 - 0.15, 0.03, footprint)
        return colour * ((1.0 + 0.4 * mottle(along, h, 2.0, seed, footprint)) * (1.0 - rows))[:, None]
    if material == BARK:
        return colour * (1.0 + 0.8 * mottle(torch.atan2(x, z), h * 0.4, 0.6, seed, footprint))[:, None]
    return colour


def surface(views: Views, point: Tensor, ray: Tensor, pixel: Tensor, own: Tensor, road: Road) -> tuple[Tensor, Tensor, Tensor]:
    """Return albedo (M, 3), world normal (M, 3) and which points give light themselves, for points and unit rays (M, 3)."""
    albedo, normal = torch.zeros_like(point), torch.zeros_like(point)
    normal[:, 1] = 1.0
    floor = torch.nonzero(own == GROUND)[:, 0]
    footprint = pixel[floor] / (-ray[floor, 1]).clamp(min=0.05)
    floor_colour = ground_albedo if road.kind == ROAD else floor_albedo
    albedo[floor] = floor_colour(point[floor, 0], point[floor, 2], footprint, road)
    glows = torch.zeros_like(own, dtype=torch.bool)
    solid = torch.nonzero(own > GROUND)[:, 0]
    part = views.at(own[solid])
    x, z = to_part(point[solid, 0] - part.x, point[solid, 2] - part.z, part)
    h = point[solid, 1] - part.base
    n = part_surface(x, h, z, part)
    vx, vz = to_part(ray[solid, 0], ray[solid, 2], part)
    facing = -(n[:, 0] * vx + n[:, 1] * ray[solid, 1] + n[:, 2] * vz)
    albedo[solid] = part_albedo(x, h, z, n, part, pixel[solid] / facing.clamp(min=0.05))
    normal[solid] = torch.stack([n[:, 0] * part.cos + n[:, 2] * part.sin, n[:, 1], -n[:, 0] * part.sin + n[:, 2] * part.cos], 1)
    glows[solid] = part.material >= WINDOW
    return albedo, normal, glows


def shadow_members(views: Views, light: Light, corner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return, per view and ground cell, the parts that can darken it: count, first and the list of all members.

    corner (N, 2) is the grid's x and z [m]. As in street_light, a shadow lies within a capsule on the ground.
    """
    part, reach = Part(*views.parts.unbind(-1)), 1.0 / light.sun_h if max(light.sun) > 0.0 else 0.0
    own_corner = corner[views.owner]
    radius = torch.hypot(torch.maximum(part.half_x, part.top_x), torch.maximum(part.half_z, part.top_z)) + 0.71 * CELL + 0.5
    ax = part.x - own_corner[:, 0] - light.sun_x * reach * part.base
    az = part.z - own_corner[:, 1] - light.sun_z * reach * part.base
    sx, sz = -light.sun_x * reach * part.height, -light.sun_z * reach * part.height
    low, high = [], []  # cells of the box around each capsule
    for start, sweep, cells in ((ax, sx, CELLS_X), (az, sz, CELLS_Z)):
        low.append(((torch.minimum(start, start + sweep) - radius) // CELL).long().clamp(min=0))
        high.append(((torch.maximum(start, start + sweep) + radius) // CELL).long().clamp(max=cells - 1))
    wide, long = ((last - first + 1).clamp(min=0) for first, last in zip(low, high, strict=True))
    index, rank = expand(wide * long)
    i, j = low[0][index] + rank % wide[index], low[1][index] + rank // wide[index]
    x, z, sx, sz = (i + 0.5) * CELL - ax[index], (j + 0.5) * CELL - az[index], sx[index], sz[index]
    share = ((x * sx + z * sz) / (sx * sx + sz * sz).clamp(min=1e-9)).clamp(0.0, 1.0)
    darkens = (x - share * sx) ** 2 + (z - share * sz) ** 2 <= radius[index] ** 2
    index, slot = index[darkens], ((views.owner[index] * CELLS_Z + j) * CELLS_X + i)[darkens]
    count = slot.bincount(minlength=len(corner) * CELLS_X * CELLS_Z)
    return count, count.cumsum(0) - count, index[slot.argsort(stable=True)]


def expand(repeats: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for every item repeated so many times, its number and which of its repetitions it is."""
    index = torch.repeat_interleave(repeats)
    return index, torch.arange(len(index), device=index.device) - (repeats.cumsum(0) - repeats)[index]


def lit_share(views: Views, view: Tensor, point: Tensor, own: Tensor, light: Light) -> tuple[Tensor, Tensor]:
    """Return the shares of the sun's and of the sky's light that reach surface points, both (M,) 0 to 1."""
    eye = views.poses[:, :3, 3]
    corner = torch.stack([(eye[:, 0] / CELL).floor() * CELL - 0.5 * CELL * CELLS_X, (eye[:, 2] / CELL).floor() * CELL - 16.0], 1)
    count, first, members = shadow_members(views, light, corner)
    sunny = max(light.sun) > 0.0
    reach = point[:, 1] / light.sun_h if sunny else torch.zeros_like(point[:, 1])
    i = ((point[:, 0] - light.sun_x * reach - corner[view, 0]) // CELL).long()
    j = ((point[:, 2] - light.sun_z * reach - corner[view, 1]) // CELL).long()
    inside = (i >= 0) & (j >= 0) & (i < CELLS_X) & (j < CELLS_Z)
    slot = torch.where(inside, view * CELLS_X * CELLS_Z + j * CELLS_X + i, 0)
    number = torch.where(inside, count[slot], 0)
    sun, sky = torch.ones_like(reach), torch.ones_like(reach)
    ends = number.cumsum(0)
    passes = int(ends[-1]) // PAIRS_AT_ONCE + 1 if len(ends) else 0
    for chunk in torch.tensor_split(torch.arange(len(number), device=number.device), passes or 1):
        index, rank = expand(number[chunk])
        index = chunk[index]
        other = members[first[slot[index]] + rank]
        keep = other != own[index]
        index, other = index[keep], other[keep]
        pair_sun, pair_sky = shade_pairs(views.at(other), point[index], own[index], light)
        sky = sky.scatter_reduce(0, index, pair_sky, "amin")
        sun = sun.scatter_reduce(0, index, pair_sun, "amin") if sunny else sun
    return sun, sky


def shade_pairs(part: Part, point: Tensor, own: Tensor, light: Light) -> tuple[Tensor, Tensor]:
    """Return what one part each leaves of the sun's and of the sky's light at points (K, 3)."""
    ox, oz = to_part(point[:, 0] - part.x, point[:, 2] - part.z, part)
    outside = torch.hypot((ox.abs() - part.half_x).clamp(min=0.0), (oz.abs() - part.half_z).clamp(min=0.0))
    near = (own == GROUND) & (part.base < 0.4) & (part.shape == FRUSTUM) & (part.half_x > 0.3)
    sky = torch.where(near, (0.25 + 1.5 * outside).clamp(max=1.0), 1.0)
    to_sun = torch.tensor([light.sun_x, light.sun_h, light.sun_z], dtype=point.dtype, device=point.device)
    dx, dz = to_part(to_sun[0], to_sun[2], part)
    dh = to_sun[1].expand_as(dx)
    t = intersect(ox, point[:, 1] - part.base, oz, dx, dh, dz, part)
    leaves = torch.nonzero((t < torch.inf) & (part.material == FOLIAGE))[:, 0]
    sun = torch.where(t < torch.inf, 0.0, 1.0).to(t)
    step = t[leaves]
    x, h, z = ox[leaves] + step * dx[leaves], point[leaves, 1] + step * dh[leaves], oz[leaves] + step * dz[leaves]
    sun[leaves] = (8.0 * (noise3(x * 2.5, h * 2.5, z * 2.5, part.seed[leaves].long()) - 0.66)).clamp(0.0, 1.0)
    return sun, sky


def lamp_light(point: Tensor, normal: Tensor, lamps: Tensor) -> Tensor:
    """Return the irradiance (M,) of lamps (M, L, 4) or (L, 4) on surface points (M, 3)."""
    total = torch.zeros_like(point[:, 0])
    for lamp in lamps.unbind(-2):
        d = lamp[..., :3] - point
        square = (d * d).sum(1)
        falls = lamp[..., 3] * (normal * d).sum(1).clamp(min=0.0) / (square.sqrt() * (square + 0.3))
        total = total + torch.where(square < LAMP_REACH**2, falls, 0.0)
    return total


def surface_radiance(
    views: Views, view: Tensor, point: Tensor, ray: Tensor, pixel: Tensor, own: Tensor, light: Light, road: Road, lamps: Tensor
) -> Tensor:
    """Return the light (M, 3) that surface points send along their rays; lamps (N, L, 4) are those of each view."""
    albedo, normal, glows = surface(views, point, ray, pixel, own, road)
    if light.wet > 0.0 or light.snow > 0.0:
        cover = (3.0 * (light.snow - noise(point[:, 0] / 1.7, point[:, 2] / 1.7, light.seed))).clamp(0.0, 1.0)
        covered = mix(albedo * (1.0 - 0.45 * light.wet), albedo.new_tensor(SNOW_ALBEDO), cover)
        albedo = torch.where((normal[:, 1] > 0.5)[:, None], covered, albedo)
    towards = normal[:, 0] * light.sun_x + normal[:, 1] * light.sun_h + normal[:, 2] * light.sun_z
    sun, sky = torch.zeros_like(towards), torch.ones_like(towards)
    lit = torch.nonzero((own == GROUND) | (towards > 0.0))[:, 0]
    sun[lit], sky[lit] = lit_share(views, view[lit], point[lit] + 0.01 * normal[lit], own[lit], light)
    sun = sun * towards.clamp(min=0.0)
    sky = sky * (0.65 + 0.35 * normal[:, 1])
    colours = [albedo.new_tensor(colour) for colour in (light.sun, light.ambient, LAMP_COLOUR)]
    lamp = lamp_light(point, normal, lamps[view]) if lamps.shape[1] else torch.zeros_like(sun)
    arriving = sum(share[:, None] * colour for share, colour in zip((sun, sky, lamp), colours, strict=True))
    return torch.where(glows[:, None], albedo * albedo.new_tensor(light.horizon), albedo * arriving)


def sky_radiance(ray: Tensor, light: Light) -> Tensor:
    """Return the colour (M, 3) of the sky in unit directions (M, 3: x, h, z)."""
    zenith, horizon = ray.new_tensor(light.zenith), ray.new_tensor(light.horizon)
    up = ray[:, 1].clamp(min=0.0)
    u, v = ray[:, 0] / (up + 0.15) * 1.5, ray[:, 2] / (up + 0.15) * 1.5
    billow = (
        0.55 * noise(u, v, light.seed) + 0.3 * noise(u * 2.7, v * 2.7, light.seed + 1) + 0.15 * noise(u * 7, v * 7, light.seed)
    )
    cloud = (4.0 * (billow - 1.0 + light.clouds)).clamp(0.0, 1.0) * (8.0 * up).clamp(max=1.0)
    cloud = torch.where((up > 0.01) & (light.clouds > 0.0), cloud, 0.0)
    sun = ray[:, 0] * light.sun_x + ray[:, 1] * light.sun_h + ray[:, 2] * light.sun_z
    white = 0.5 * (light.horizon[0] + light.horizon[2]) * (1.0 - 0.15 * cloud)
    clear = torch.lerp(zenith.expand_as(ray), horizon.expand_as(ray), (-5.0 * up).exp()[:, None])
    return mix(clear, white[:, None], cloud) + light.glow * sun.clamp(min=0.0)[:, None] ** 24


def drops(height: int, width: int, light: Light, frames: Tensor) -> Tensor:
    """Return how much of every pixel rain and snow hide (N, H, W), drawn anew for every frame number (N,)."""
    y, x = (torch.arange(n, device=frames.device, dtype=torch.float64) / height for n in (height, width))
    x, y, frame = x[None, None], y[None, :, None], frames[:, None, None]
    share = torch.zeros(len(frames), height, width, dtype=torch.float64, device=frames.device)
    for layer in range(LAYERS):
        seed = frame + 7 * layer
        wide, long = 0.016 * (layer + 1), 0.16 * (layer + 1)
        slanted = x + 0.12 * y
        i = (slanted / wide).floor().long()
        up = y / long + random_at(i, layer, frame)
        j = up.floor().long()
        across = (slanted / wide - i - 0.3 - 0.4 * random_at(i, j, seed + 2)).abs()
        streak = 0.4 * (1.0 - across / 0.16).clamp(min=0.0) * (1.0 - 2.0 * (up - j - 0.5).abs()).clamp(min=0.0)
        share = torch.where(random_at(i, j, seed + 1) > 0.3 * light.wet, share, torch.maximum(share, streak))
        size = 0.03 * (layer + 1)
        i, j = (x / size).floor().long(), (y / size).floor().long()
        dx = x / size - i - 0.25 - 0.5 * random_at(i, j, seed + 4)
        dy = y / size - j - 0.25 - 0.5 * random_at(i, j, seed + 5)
        flake = 0.8 * (2.0 - torch.hypot(dx, dy) / 0.1).clamp(0.0, 1.0)
        share = torch.where(random_at(i, j, seed + 3) > 0.3 * light.snow, share, torch.maximum(share, flake))
    return share


def expose(radiance: Tensor, light: Light, noise_levels: float, frames: Tensor) -> Tensor:
    """Return the camera's images (N, 3, H / 2, W / 2) in [0, 1]: mean of 2x2 rays, film curve, gamma, sensor noise.

    radiance is (N, H, W, 3). The compiled renderer rounds to 8 bits; here the values stay as they are.
    """
    mean = torch.nn.functional.avg_pool2d(radiance.permute(0, 3, 1, 2), 2)
    level = (1.05 * (1.0 - (-light.exposure * mean).exp())).clamp(max=1.0) ** 0.75
    place = torch.arange(level.shape[2] * level.shape[3], device=level.device).reshape(1, 1, level.shape[2], level.shape[3])
    channel, frame = torch.arange(3, device=level.device)[None, :, None, None], frames[:, None, None, None]
    grain = sum(random_at(place, 3 * channel + n, frame) for n in range(3)) - 1.5
    return (level + noise_levels * 2.0 * grain / 255.0).clamp(0.0, 1.0)
