"""The node's parameters: names, defaults, ranges and descriptions exist once, here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

from depth_ros.answers import Wish
from depth_ros.cloud import CloudOptions
from depth_ros.depth_codec import ENCODINGS as DEPTH_ENCODINGS
from depth_ros.engines import AUTO, ENGINES, MEMORIES, PRECISIONS, EngineOptions, default_cache
from depth_ros.scale import RELATIVE, SOURCES
from depth_ros.scale.poses import pose_from_text
from depth_ros.temporal import TemporalOptions
from depth_ros.types import InputError

CAMERA_NAME = re.compile("[a-zA-Z][a-zA-Z0-9_]*")
AT_RELOAD = "A change takes effect with the service ~/reload, or when the node is configured"
TRANSPORTS = ("raw", "compressed")
OFF = {  # the parameter that withholds topics, for whoever cannot stop their subscribers
    "publish_depth": ("depth/image_rect", "depth/relative"),
    "publish_compressed": ("depth/image_rect/compressedDepth",),
    "publish_uncertainty": ("depth/uncertainty", "depth/relative_uncertainty"),
    "publish_color": ("depth/image_color",),
    "publish_cloud": ("points",),
}


def _param(
    default: Any, description: str, low: float | None = None, high: float | None = None, fixed: bool = False
) -> Any:  # Any: a dataclass field stands where its value's type is declared
    return field(default=default, metadata={"description": description, "low": low, "high": high, "fixed": fixed})


@dataclass(frozen=True)
class ScaleParams:
    """Where metres come from: the parameters `scale.*` (docs/scale.md)."""

    source: str = _param(
        "bundle",
        f"Where metres come from: {', '.join(SOURCES)}; {RELATIVE}: nowhere, only depth/relative is published",
        fixed=True,
    )
    factor: float = _param(1.0, "Metres per unit of the model's depth, for the source fixed", 1e-6, 1e6, fixed=True)
    factor_sigma: float = _param(0.0, "Relative standard deviation of factor", 0.0, 1.0, fixed=True)
    camera_height: float = _param(0.0, "Height [m] of the camera above the ground, for that source", 0.0, 1e3, fixed=True)
    camera_height_sigma: float = _param(0.02, "Standard deviation [m] of camera_height", 0.0, 1e3, fixed=True)
    camera_pitch: float = _param(0.0, "How far [rad] the camera looks down", -1.5, 1.5, fixed=True)
    sensor_pose: str = _param(
        "", "x y z roll pitch yaw [m, rad] of range sensor or robot from the camera (x forward, y left, z up); empty: /tf_static",
        fixed=True,
    )  # fmt: skip
    drift: float = _param(0.05, "How far the scale wanders in a second, relative", 0.0, 10.0, fixed=True)
    timeout_s: float = _param(10.0, "Seconds without a measurement after which images are refused", 0.1, 3600.0, fixed=True)
    tolerance_s: float = _param(0.2, "Seconds by which a range may be older or newer than its image", 0.0, 60.0, fixed=True)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"scale.source is '{self.source}'; expected one of {', '.join(SOURCES)}")
        if self.source == "camera_height" and not self.camera_height > 0:
            raise InputError("scale.camera_height is 0; expected the height of the camera above the ground [m]")
        if self.sensor_pose:
            pose_from_text(self.sensor_pose)


@dataclass(frozen=True)
class NodeParams:
    """Parameters of mono_depth_node. A `fixed` one is read when the node starts and rejected afterwards."""

    model: str = _param("", f"Folder of the model bundle; empty: the bundle that comes with the package. {AT_RELOAD}")
    engine: str = _param(AUTO, f"Inference backend: {', '.join(ENGINES)}; {AUTO}: the first of them that works", fixed=True)
    threads: int = _param(0, "Threads of a CPU backend; 0: one less than there are cores", 0, 256, fixed=True)
    precision: str = _param(
        "", f"Of the backend: {', '.join(PRECISIONS)}; empty: fp16 with TensorRT, fp32 with the others", fixed=True
    )
    build_if_missing: bool = _param(False, "Build a TensorRT engine that is missing while configuring: minutes", fixed=True)
    engine_cache: str = _param("", "Folder of built engines; empty: ~/.cache/depth_ros", fixed=True)
    memory: str = _param(AUTO, f"What manages CUDA memory: {', '.join(MEMORIES)}", fixed=True)
    cuda_graph: bool = _param(True, "Replay a TensorRT inference as one CUDA graph", fixed=True)
    camera_names: tuple[str, ...] = _param(
        (), "Names of several cameras, whose topics are <name>/image, <name>/depth/...; empty: one camera", fixed=True
    )
    image_transport: str = _param(
        "raw", f"Of the images: {' or '.join(TRANSPORTS)} (JPEG or PNG, on <image>/compressed)", fixed=True
    )
    batch_window_ms: float = _param(
        5.0, "How long the image of one camera waits for those of the others, to be inferred together", 0.0, 1000.0, fixed=True
    )
    autostart: bool = _param(True, "Configure and activate at start; false: wait for lifecycle transitions", fixed=True)
    image_is_rectified: bool = _param(
        False, "The image is rectified already although its camera_info has distortion: use P, ignore D and R", fixed=True
    )
    min_depth: float = _param(0.0, "Depth [m] below which it is NaN; 0: the model's own range", 0.0, 1e4)
    max_depth: float = _param(0.0, "Depth [m] from which it is +inf, nothing in range; 0: the model's own range", 0.0, 1e4)
    max_rate: float = _param(0.0, "Most images per second and camera that are answered; 0: all there is time for", 0.0, 1e4)
    publish_depth: bool = _param(
        True, "Whether depth/image_rect (or depth/relative) is answered; like all topics, only to subscribers"
    )
    publish_compressed: bool = _param(True, "Whether depth/image_rect/compressedDepth is")
    publish_uncertainty: bool = _param(True, "Whether depth/uncertainty (or depth/relative_uncertainty) is")
    publish_color: bool = _param(True, "Whether depth/image_color is")
    publish_cloud: bool = _param(True, "Whether points is")
    max_relative_sigma: float = _param(0.35, "Cloud points with sigma / depth above this are NaN; 0: keep them", 0.0, 1e6)
    max_edge_step: float = _param(0.1, "Cloud points on a relative depth step above this are NaN; 0: keep them", 0.0, 1e6)
    cloud_full_resolution: bool = _param(False, "Cloud at the camera's resolution instead of the network's")
    depth_full_resolution: bool = _param(
        True, "Depth, uncertainty and colours at the camera's resolution; false: at the network's, which costs next to nothing"
    )
    depth_encoding: str = _param(
        "32FC1", f"Of depth and uncertainty: {' or '.join(DEPTH_ENCODINGS)}; 32FC1 is metres, 16UC1 millimetres with 0 for none"
    )
    temporal_filter: bool = _param(False, "Fuse depth over time where it flickers; a cut or a pause starts it anew")
    cloud_voxel_size: float = _param(0.0, "Edge [m] of cubes of which the cloud has one point each; 0: one per pixel", 0.0, 1e3)
    cloud_stride: int = _param(1, "Every n-th row and column of the cloud", 1, 64)
    color_min_depth: float = _param(1.0, "Depth [m] of the warmest colour of depth/image_color", 0.01, 1e4)
    color_max_depth: float = _param(80.0, "Depth [m] of the coldest colour of depth/image_color", 0.01, 1e4)
    report_period_s: float = _param(5.0, "Seconds between lines on rate, latency and drops; 0: none", 0.0, 3600.0, fixed=True)
    scale: ScaleParams = field(default_factory=ScaleParams)

    def __post_init__(self) -> None:
        if self.image_transport not in TRANSPORTS:
            raise InputError(f"image_transport is '{self.image_transport}'; expected {' or '.join(TRANSPORTS)}")
        if self.depth_encoding not in DEPTH_ENCODINGS:
            raise InputError(f"depth_encoding is '{self.depth_encoding}'; expected {' or '.join(DEPTH_ENCODINGS)}")
        for name in self.camera_names:
            if not CAMERA_NAME.fullmatch(name) or self.camera_names.count(name) > 1:
                raise InputError(
                    f"camera_names holds '{name}'; expected different names of letters, digits and _ that begin with a letter"
                )
        if 0 < self.max_depth <= self.min_depth:
            raise InputError(f"max_depth is {self.max_depth}; expected more than min_depth ({self.min_depth}), or 0")
        if self.scale.source == RELATIVE and (self.min_depth or self.max_depth):
            raise InputError(
                f"min_depth is {self.min_depth} and max_depth {self.max_depth}, in metres, of which scale.source '{RELATIVE}' "
                "has none; expected 0"
            )
        if not self.color_min_depth < self.color_max_depth:
            raise InputError(
                f"color_max_depth is {self.color_max_depth}; expected more than color_min_depth ({self.color_min_depth})"
            )

    @property
    def model_folder(self) -> Path:
        """Folder of the bundle; no shell sees the ~ of a parameter file."""
        return Path(self.model).expanduser() if self.model else default_model()

    @property
    def withheld(self) -> frozenset[str]:
        """Topics that are not answered although they have subscribers."""
        return frozenset(topic for name, topics in OFF.items() if not getattr(self, name) for topic in topics)

    def wish(self, depth: bool, cloud: bool) -> Wish:
        """What to ask for of a frame."""
        small = not self.depth_full_resolution
        return Wish(depth, self.cloud if cloud else None, self.min_depth, self.max_depth or float("inf"), small)

    def engine_options(self, progress: Callable[[str], None]) -> EngineOptions:
        """What of this concerns the engine; `progress` takes a line that says how far a build is. Raises EngineError."""
        return EngineOptions(
            threads=self.threads, precision=self.precision, batch=max(1, len(self.camera_names)),
            build_if_missing=self.build_if_missing, memory=self.memory, cuda_graph=self.cuda_graph, progress=progress,
            cache=Path(self.engine_cache).expanduser() if self.engine_cache else default_cache(),
        )  # fmt: skip

    @property
    def cloud(self) -> CloudOptions:
        """What of this concerns the cloud."""
        return CloudOptions(
            self.cloud_full_resolution, self.cloud_stride, self.max_relative_sigma, self.max_edge_step, self.cloud_voxel_size
        )

    @property
    def smoothing(self) -> TemporalOptions | None:
        """The filter over time, None where there is none."""
        return TemporalOptions() if self.temporal_filter else None


def default_model() -> Path:
    """Return the folder of the bundle that comes with the package: of this checkout, or else of the installed share."""
    checkout = Path(__file__).resolve().parents[2] / "models" / "default"
    if checkout.is_dir():
        return checkout
    try:
        return Path(get_package_share_directory("depth_ros")) / "models" / "default"
    except PackageNotFoundError:
        return checkout
