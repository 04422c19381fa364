"""What was made of an input, and with what: a run that goes on must be the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from depth_ros.bundle import ModelBundle
from depth_ros.ros.params import NodeParams
from depth_ros.types import CameraModel, InputError

FILE = "manifest.json"
FORMAT = 1
# Of the node's parameters those of a running node and its topics, of which nothing is left here.
OF_A_RUNNING_NODE = (
    "autostart", "report_period_s", "camera_names", "image_transport", "batch_window_ms", "max_rate", "depth_encoding",
    "depth_full_resolution", "publish_depth", "publish_compressed", "publish_uncertainty", "publish_color", "publish_cloud",
)  # fmt: skip
# Those that change no result: also where and when the engine runs, not what it answers. `model` is stated by its sha256.
WITHOUT_EFFECT = ("model", "threads", "build_if_missing", "engine_cache", "memory", "cuda_graph", *OF_A_RUNNING_NODE)


def describe(
    source: Path, topic: str, camera: CameraModel | None, model: ModelBundle, params: NodeParams, formats: tuple[str, ...],
    sensors: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Return what a result depends on, as it comes back out of JSON. `camera` is None where the input brings its own."""
    facts: dict[str, Any] = {
        "format": FORMAT,
        "input": str(source.resolve()),
        "input_bytes": _size(source),
        "topic": topic,
        "camera": asdict(camera) if camera else None,
        "model": model.name,
        "model_sha256": model.sha256,
        "parameters": {name: value for name, value in asdict(params).items() if name not in WITHOUT_EFFECT},
        "formats": formats,
    }
    if sensors:  # the manifests of others, also of those before there were any, do without
        facts["sensors"] = dict(sensors)
    facts = json.loads(json.dumps(facts))  # tuples become lists
    return facts


def read(folder: Path) -> dict[str, Any] | None:
    """Return the manifest in `folder`, None where that does not exist or is empty. Raises InputError if it cannot be read."""
    file = folder / FILE
    if not folder.is_dir() or not any(folder.iterdir()):
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: cannot be read ({reason}); remove {folder}, or choose another --out") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: holds no manifest; remove {folder}, or choose another --out")
    return values


def write(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the manifest; it is there completely or not at all. Raises OSError."""
    write_whole(folder / FILE, (json.dumps(values, indent=2, allow_nan=False) + "\n").encode())


def check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise InputError naming what differs, if `folder` was made with something else than `wanted`."""
    before, now = _flat(found), _flat(wanted)
    for key, value in now.items():
        if before.get(key) != value:
            raise InputError(
                f"{folder}: was made with {key} {before.get(key)!r}, this run has {value!r}: "
                "run as before, choose another --out, or remove the folder"
            )


def write_whole(file: Path, data: bytes) -> None:
    """Write a file under a temporary name, then give it its own: no reader sees half of it. Raises OSError."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(data)
    partial.replace(file)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    nested = {f"parameter {name}": value for name, value in values.get("parameters", {}).items()}
    return {key: value for key, value in values.items() if key != "parameters"} | nested


def _size(source: Path) -> int:
    files = source.iterdir() if source.is_dir() else [source]
    return sum(file.stat().st_size for file in files if file.is_file())
