"""What a plan depends on: its key, and in what two keys differ."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions
from depth_ros.engines.contract import choose_precision

PRECISIONS = ("fp16", "fp32", "int8")  # the first is the one that is built unless another is asked for
# What depth_ros makes of a bundle's graph before TensorRT sees it; raise it when that changes, and older plans are left alone.
RECIPE = 1


@dataclass(frozen=True)
class PlanKey:
    """All that a plan depends on: it is used only where every part is the same."""

    graph_sha256: str  # of what the graph is made from: the bundle's file, the recipe, for a frame graph the depth range
    backend: str  # tensorrt or tensorrt_rtx
    version: str  # of the backend
    gpu: str
    compute_capability: str  # "8.7"
    precision: str  # fp32, fp16 or int8
    batch: int  # most images at once
    frame: str = ""  # "1280x720" of a frame graph, empty for the plain network
    name: str = "model"  # of the bundle, for people

    @property
    def stem(self) -> str:
        """File name without its ending: readable, with a hash of the whole key."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{self.family}-{digest[:12]}"

    @property
    def family(self) -> str:
        """What the file names of plans for the same purpose begin with, whatever version or GPU they were built for."""
        parts = [self.name, self.precision, f"b{self.batch}", *filter(None, [self.frame])]
        return re.sub(r"[^\w.-]+", "_", "-".join(parts))


@dataclass(frozen=True)
class Device:
    """What a plan is built by and for."""

    backend: str  # tensorrt or tensorrt_rtx
    version: str  # of the backend
    gpu: str
    compute_capability: str  # "8.7"


def plan_key(bundle: ModelBundle, options: EngineOptions, device: Device, frame: tuple[int, int] | None = None) -> PlanKey:
    """Key of the plan that these options ask for; `frame` is the camera's (width, height) of a frame graph.

    Needs no ONNX package, so that a robot can find its plan without one. Raises EngineError for a precision that TensorRT is not
    built in, and where a bundle has no int8 graph.
    """
    precision = choose_precision(options, PRECISIONS)
    if precision == "int8" and not bundle.int8:
        raise EngineError(
            f"{bundle.path}: has no int8 graph; make one: python -m training.quantise {bundle.path} FOLDER_OF_FRAMES"
        )
    source = bundle.int8["sha256"] if precision == "int8" else bundle.sha256
    depth_range = [bundle.min_depth, bundle.max_depth] if frame else []
    digest = hashlib.sha256(json.dumps([RECIPE, source, *depth_range]).encode()).hexdigest()
    size = "x".join(map(str, frame)) if frame else ""
    return PlanKey(digest, **asdict(device), precision=precision, batch=options.batch, frame=size, name=bundle.name)


def differing(wanted: PlanKey, found: PlanKey) -> dict[str, tuple[Any, Any]]:
    """The parts that are not the same: what was found, what is wanted."""
    pairs = ((name, getattr(found, name), value) for name, value in asdict(wanted).items())
    return {name: (there, value) for name, there, value in pairs if there != value}


def differences(wanted: PlanKey, found: PlanKey) -> str:
    """Say what a plan was built for, where that is not what is wanted."""
    parts = []
    for name, values in differing(wanted, found).items():
        there, here = (f"{value:.12}" if name == "graph_sha256" else f"{value}" for value in values)
        parts.append(f"{name.replace('_', ' ')} {there}, here it is {here}")
    return f"was built for {'; '.join(parts)}: build one for this machine and model"
