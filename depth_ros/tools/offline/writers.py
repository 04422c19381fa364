"""The files that answers are written to: a bag, 16-bit PNGs, point clouds in PLY, and a film."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from depth_ros.answers import Answer
from depth_ros.ros import messages
from depth_ros.ros.params import NodeParams
from depth_ros.tools import recording
from depth_ros.tools.film import Film
from depth_ros.tools.offline.bag import PartedBag
from depth_ros.tools.offline.manifest import write_whole
from depth_ros.tools.preview import Limits
from depth_ros.types import CameraModel, Float32Array, Frame

SCALE = 256  # PNG value of one metre, as KITTI's depth maps have it: 4 mm steps up to 256 m
INVALID, NOTHING_IN_RANGE = 0, 65535  # PNG values of NaN and of +inf
CAMERA_INFO = "/camera_info"
TOPICS = {
    recording.IMAGE: Image, CAMERA_INFO: CameraInfo, recording.DEPTH: Image, recording.SIGMA: Image,
    recording.CAMERA: CameraInfo, recording.CLOUD: PointCloud2,
}  # fmt: skip
PLY_DTYPE = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1"), ("sigma", "<f4")])
PLY_TYPES = {"<f4": "float", "|u1": "uchar"}


@dataclass(frozen=True)
class Answered:
    """An image and its answer."""

    stem: str  # name of its files, without a suffix
    time_s: float  # since the first image
    image: Image
    info: CameraInfo
    frame: Frame  # rectified
    answer: Answer


class Writer(Protocol):
    """Writes answers into a folder. Whatever goes wrong on the disk raises OSError or record.RecordingError."""

    full: bool  # whether it needs the prediction at the camera's resolution
    cloud: bool  # whether it needs the cloud

    def has(self, stem: str) -> bool:
        """Return whether this image's file was written by a run before."""

    def write(self, answered: Answered) -> None:
        """Write one answer."""

    def close(self) -> None:
        """Write out what is open; also where the run is cut short."""

    def finish(self) -> None:
        """After close(): all images are there."""


class PngWriter:
    """Depth or sigma as 16-bit PNGs of metres x SCALE, and one JSON beside their folder that says so."""

    full, cloud = True, False

    def __init__(self, folder: Path, quantity: str) -> None:
        self._folder = folder / quantity
        self._folder.mkdir(exist_ok=True)
        self._quantity = quantity
        self._sidecar = folder / f"{quantity}.json"
        self._cameras: list[dict[str, Any]] = []  # each with the image it begins with
        if self._sidecar.is_file():
            self._cameras = json.loads(self._sidecar.read_text(encoding="utf-8"))["cameras"]

    def has(self, stem: str) -> bool:
        """See Writer."""
        return self._file(stem).is_file()

    def write(self, answered: Answered) -> None:
        """See Writer."""
        prediction = answered.answer.prediction
        assert prediction is not None
        self._describe(answered.stem, prediction.camera)
        values = prediction.depth if self._quantity == "depth" else prediction.sigma
        write_whole(self._file(answered.stem), cv2.imencode(".png", quantise(values))[1].tobytes())

    def close(self) -> None:
        """See Writer."""

    def finish(self) -> None:
        """See Writer."""

    def _file(self, stem: str) -> Path:
        return self._folder / f"{stem}.png"

    def _describe(self, stem: str, camera: CameraModel) -> None:
        camera_of = {name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")}
        if self._cameras and {**self._cameras[-1], "first_image": ""} == {"first_image": "", **camera_of}:
            return
        self._cameras.append({"first_image": stem, **camera_of})
        described = {
            "files": f"{self._quantity}/*.png, 16 bit, named like the images; metres = value / scale",
            "scale": SCALE,
            "invalid": INVALID,
            "nothing_in_range": NOTHING_IN_RANGE,
            "cameras": self._cameras,  # [px], of the rectified images
        }
        write_whole(self._sidecar, (json.dumps(described, indent=2) + "\n").encode())


def quantise(metres: Float32Array) -> NDArray[np.uint16]:
    """Return PNG values (H, W): NaN is INVALID, +inf NOTHING_IN_RANGE, and no number becomes either of them."""
    steps = np.clip(np.rint(metres * np.float32(SCALE)), INVALID + 1, NOTHING_IN_RANGE - 1)
    steps[np.isposinf(metres)] = NOTHING_IN_RANGE
    steps[np.isnan(metres)] = INVALID
    values: NDArray[np.uint16] = steps.astype(np.uint16)
    return values


class PlyWriter:
    """The cloud's valid points, in the camera's optical frame [m], as binary PLY: x y z, red green blue, sigma."""

    full, cloud = False, True

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "points"
        self._folder.mkdir(exist_ok=True)

    def has(self, stem: str) -> bool:
        """See Writer."""
        return self._file(stem).is_file()

    def write(self, answered: Answered) -> None:
        """See Writer."""
        assert answered.answer.points is not None
        write_whole(self._file(answered.stem), encode_ply(answered.answer.points))

    def close(self) -> None:
        """See Writer."""

    def finish(self) -> None:
        """See Writer."""

    def _file(self, stem: str) -> Path:
        return self._folder / f"{stem}.ply"


def encode_ply(points: NDArray[np.void]) -> bytes:
    """Return the bytes of a PLY file with the valid ones of `points` (rows, cols) of cloud.POINT_DTYPE."""
    valid = points[np.isfinite(points["z"])]
    vertices = np.empty(valid.size, PLY_DTYPE)
    for name in ("x", "y", "z", "sigma"):
        vertices[name] = valid[name]
    packed = np.ascontiguousarray(valid["rgb"]).view("<u4")
    for name, shift in (("red", 16), ("green", 8), ("blue", 0)):
        vertices[name] = packed >> shift & 0xFF
    fields = [(name, PLY_TYPES[PLY_DTYPE[name].str]) for name in PLY_DTYPE.names or ()]
    properties = "".join(f"property {kind} {name}\n" for name, kind in fields)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {valid.size}\n{properties}end_header\n"
    return header.encode() + vertices.tobytes()


class BagWriter:
    """All topics of one image after the other in an MCAP file, as the demo's recorder would write them.

    The time of a message is its image's stamp, or where that is zero the seconds since the first image.
    """

    full = cloud = True

    def __init__(self, folder: Path) -> None:
        self._bag = PartedBag(folder / "depth.mcap", TOPICS)
        self.has, self.close, self.finish = self._bag.has, self._bag.close, self._bag.finish

    def write(self, answered: Answered) -> None:
        """See Writer."""
        header = answered.image.header
        time_ns = messages.stamp_ns(header) or round(answered.time_s * 1e9)
        prediction, points = answered.answer.prediction, answered.answer.points
        assert prediction is not None
        assert points is not None
        published = {
            CAMERA_INFO: answered.info,
            recording.IMAGE: answered.image,
            recording.CAMERA: messages.camera_info(answered.frame.camera, header),
            recording.DEPTH: messages.depth_image(prediction.depth, header),
            recording.SIGMA: messages.depth_image(prediction.sigma, header),
            recording.CLOUD: messages.point_cloud(points, header),
        }
        self._bag.write(answered.stem, time_ns, published)


class FilmWriter:
    """Image, depth and uncertainty beside each other as an MP4 in real time."""

    full, cloud = True, False

    def __init__(self, folder: Path, rate_hz: float, limits: Limits) -> None:
        self._film = Film(folder / "preview.mp4", rate_hz, limits)

    def has(self, stem: str) -> bool:
        """See Writer: a film is written from its start."""
        return False

    def write(self, answered: Answered) -> None:
        """See Writer."""
        assert answered.answer.prediction is not None
        self._film.add(answered.frame.image, answered.answer.prediction, f"{answered.stem}     {answered.time_s:.1f} s")

    def close(self) -> None:
        """See Writer."""
        self._film.close()

    def finish(self) -> None:
        """See Writer."""


FORMATS = {
    "bag": "depth.mcap: the image and everything that the node publishes for it",
    "png": "depth/*.png: 16-bit depth, metres x 256",
    "sigma": "uncertainty/*.png: 16-bit sigma, metres x 256",
    "ply": "points/*.ply: the cloud",
    "mp4": "preview.mp4: image, depth and uncertainty beside each other",
}


def open_writer(name: str, folder: Path, rate_hz: float, params: NodeParams) -> Writer:
    """Return the writer of format `name` (one of FORMATS) into `folder`, of a recording with `rate_hz` images per second."""
    if name == "bag":
        return BagWriter(folder)
    if name in ("png", "sigma"):
        return PngWriter(folder, "depth" if name == "png" else "uncertainty")
    if name == "ply":
        return PlyWriter(folder)
    limits = Limits(params.color_min_depth, params.color_max_depth, params.max_relative_sigma or NodeParams().max_relative_sigma)
    return FilmWriter(folder, rate_hz, limits)
