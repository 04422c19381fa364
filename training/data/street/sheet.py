"""Pictures of the procedural worlds: the sheet to look at, and the clip that ships with the demo."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.calibration import save_calibration
from depth_ros.types import CameraModel, UInt8Array
from training.data.street.world import Rendering, Street, StreetConfig, kitti_camera

CLIP_SEED = 4  # of the clip in assets/street
CLIP_FRAMES = 60
CLIP_RATE_HZ = 10.0
TRUTH_EVERY = 5  # frames of the clip
DEPTH_SCALE = 256.0  # of the clip's depth PNGs: value = depth [m] * 256, as KITTI stores it
TIMES = (3.0, 12.0)  # of the sheet [s]
SHEET = (
    ("street", StreetConfig()),
    ("street, test textures", StreetConfig(textures="test")),
    ("street, many movers", StreetConfig(movers=1.0, ego_speed_cars=1.0)),
    ("street, fog 8", StreetConfig(fog=8.0)),
    ("street, rain 0.8", StreetConfig(rain=0.8)),
    ("street, snow 0.7", StreetConfig(snow=0.7)),
    ("street, light 0.3", StreetConfig(light=0.3)),
    ("street, light 0", StreetConfig(light=0.0)),
    ("room", StreetConfig(scene="room")),
    ("room, test textures", StreetConfig(scene="room", textures="test")),
    ("room, plain 1", StreetConfig(scene="room", plain=1.0)),
    ("room, light 0", StreetConfig(scene="room", light=0.0)),
    ("ground", StreetConfig(scene="ground")),
    ("ground, test textures", StreetConfig(scene="ground", textures="test")),
)


def write_preview(path: Path, seed: int) -> None:
    """Write a sheet: one row per world, two times, image | inverse depth with what moves in white and what is plain in grey.

    Raises OSError if the file cannot be written.
    """
    rows = []
    for index, (name, config) in enumerate(SHEET):
        camera = CameraModel(416, 128, 208.0, 208.0, 207.5, 63.5) if config.scene == "room" else kitti_camera(416, 128)
        world, row = Street(seed + index, config), []
        for t_s in TIMES:
            view = world.render(camera, world.pose(t_s), t_s)
            row += [np.ascontiguousarray(view.image[..., ::-1]), draw_truth(view)]
        for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(row[0], name, (6, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA)
        rows.append(np.hstack(row))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.vstack(rows))


def draw_truth(view: Rendering) -> UInt8Array:
    """Return inverse depth in colours (H, W, 3) BGR, what moves in white and what is plain hatched in grey."""
    near = np.min(view.depth) if np.min(view.depth) < 2.0 else 4.0
    picture = cv2.applyColorMap(np.clip(255.0 * near / np.maximum(view.depth, near), 0, 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    hatch = np.add.outer(np.arange(view.depth.shape[0]), np.arange(view.depth.shape[1])) % 6 < 2
    picture[view.plain & hatch] = 128
    picture[view.moving] = 255
    return picture


def write_image(path: Path, image: NDArray[np.generic], *parameters: int) -> None:
    """Write a BGR or 16-bit image. Raises OSError if that fails."""
    written = False
    with contextlib.suppress(cv2.error):  # for a suffix it does not know; a folder that is missing it only returns
        written = cv2.imwrite(str(path), image, parameters)
    if not written:
        raise OSError(f"{path}: cannot be written; name a file that ends in .png or .jpg in a writable folder")


def write_clip(folder: Path, seed: int, frames: int = CLIP_FRAMES) -> None:
    """Write the demo clip: folder/image/*.jpg, folder/depth/*.png (16 bit, metres * 256, 0 = none) and folder/camera.yaml."""
    street, camera = Street(seed, StreetConfig(textures="test")), kitti_camera(640, 192)
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(frames):
        t_s = 1.0 + index / CLIP_RATE_HZ
        view = street.render(camera, street.pose(t_s), t_s)
        write_image(folder / "image" / f"{index:06d}.jpg", view.image[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 88)
        if index % TRUTH_EVERY == 0:
            truth = np.where(view.depth < 65535 / DEPTH_SCALE, np.round(view.depth * DEPTH_SCALE), 0).astype(np.uint16)
            write_image(folder / "depth" / f"{index:06d}.png", truth, cv2.IMWRITE_PNG_COMPRESSION, 9)
    save_calibration(camera, folder / "camera.yaml", "street")
