"""The contract between training and the robot: a folder with `model.onnx` and `bundle.yaml`."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FORMAT = 1
KINDS = ("metric", "scale_invariant", "affine_invariant")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
LIMITED = ("depth_median", "depth_p99", "sigma_median", "sigma_p99")  # relative differences that an engine may be limited in


class BundleError(Exception):
    """A bundle that cannot be used; the text names the file, the key, what was found and what was expected."""


@dataclass(frozen=True)
class ModelBundle:
    """What `bundle.yaml` says about the graph beside it.

    The graph maps `image` uint8 (N, height, width, 3) RGB to `depth` and `sigma`, float32 (N, height, width) in metres.
    """

    name: str
    width: int  # [px] of the graph's input
    height: int  # [px]
    fx: float  # [px] focal length the model was trained with, at width x height
    fy: float  # [px]
    kind: str  # one of KINDS
    min_depth: float  # [m]
    max_depth: float  # [m] at and beyond it, nothing is in range
    sigma_calibration: float  # factor on sigma fitted on held-out data; already inside the graph
    trained_on: str
    licence: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    # Precision -> largest differences (LIMITED) of an engine from this graph; what it leaves out is depth_ros.engines.gate's.
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # Of model.int8.onnx, where there is one: its `sha256`, and what it was calibrated on and how far it is from model.onnx.
    int8: Mapping[str, str | float] = field(default_factory=dict)
    format: int = FORMAT
    sha256: str = ""  # of model.onnx; filled in by save()
    path: Path = Path()  # the folder; not stored in the file

    @property
    def graph_path(self) -> Path:
        """Path of the ONNX graph."""
        return self.path / "model.onnx"

    @property
    def int8_path(self) -> Path:
        """Path of the quantised graph, which need not exist."""
        return self.path / "model.int8.onnx"


KEYS = tuple(f.name for f in fields(ModelBundle) if f.name != "path")
OPTIONAL = ("limits", "int8")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("format", "width", "height"), (int,)),
    **dict.fromkeys(("fx", "fy", "min_depth", "max_depth", "sigma_calibration"), (int, float)),
    **dict.fromkeys(("name", "sha256", "kind", "trained_on", "licence"), (str,)),
    **dict.fromkeys(("metrics", "provenance", "limits", "int8"), (dict,)),
}


def load(path: Path | str) -> ModelBundle:
    """Read and check the bundle in folder `path`. Raises BundleError."""
    folder = Path(path)
    file = folder / "bundle.yaml"
    if not folder.is_dir():
        raise BundleError(f"{folder}: no such folder; expected a model bundle (a folder with model.onnx and bundle.yaml)")
    values = _read_yaml(file)
    _check_keys(file, values)
    _check_values(file, values)
    _check_limits(file, values.get("limits", {}))
    bundle = ModelBundle(**values, path=folder)
    if not bundle.graph_path.is_file():
        raise BundleError(f"{bundle.graph_path}: missing; export the bundle again or copy the whole folder")
    found = _sha256(bundle.graph_path)
    if found != bundle.sha256:
        raise BundleError(
            f"{bundle.graph_path}: sha256 is {found}, but {file.name} says {bundle.sha256}; "
            "the graph was changed or cut off: copy or export the bundle again"
        )
    return bundle


def save(bundle: ModelBundle, path: Path | str) -> ModelBundle:
    """Write `bundle.yaml` beside the `model.onnx` that already lies in folder `path`; return the bundle as load() sees it."""
    folder = Path(path)
    values = {key: value for key, value in asdict(bundle).items() if key in KEYS}
    values = {key: value for key, value in values.items() if value or key not in OPTIONAL}
    values["sha256"] = _sha256(folder / "model.onnx")
    ordered = {"format": values.pop("format"), "name": values.pop("name"), "sha256": values.pop("sha256"), **values}
    (folder / "bundle.yaml").write_text(yaml.safe_dump(ordered, sort_keys=False, width=120), encoding="utf-8")
    return load(folder)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{file}: missing; expected a model bundle (a folder with model.onnx and bundle.yaml)") from None
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); expected a file that this user may read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BundleError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise BundleError(f"{file}: holds {type(values).__name__}; expected the keys {', '.join(KEYS)}")
    return values


def _check_keys(file: Path, values: dict[str, Any]) -> None:
    for key in values:
        _check_name(str(file), key, KEYS)
    for key in KEYS:
        if key not in values and key not in OPTIONAL:
            raise BundleError(f"{file}: key '{key}' is missing; export the bundle again")


def _check_values(file: Path, values: dict[str, Any]) -> None:
    if values["format"] != FORMAT:
        raise BundleError(f"{file}: format is {values['format']!r}; this version reads format {FORMAT}: export the bundle again")
    for key, types in _TYPES.items():
        if key not in values:
            continue
        if not isinstance(values[key], types) or isinstance(values[key], bool):
            expected = " or ".join(t.__name__ for t in types)
            raise BundleError(f"{file}: {key} is {values[key]!r} ({type(values[key]).__name__}); expected {expected}")
    if values["kind"] not in KINDS:
        raise BundleError(f"{file}: kind is {values['kind']!r}; expected one of {', '.join(KINDS)}")
    for key in ("width", "height", "fx", "fy", "min_depth", "sigma_calibration"):
        if not values[key] > 0:
            raise BundleError(f"{file}: {key} is {values[key]}; expected a positive number")
    if values.get("int8") and not isinstance(values["int8"].get("sha256"), str):
        raise BundleError(f"{file}: int8: sha256 is {values['int8'].get('sha256')!r}; expected that of model.int8.onnx, a text")
    if not values["max_depth"] > values["min_depth"]:
        raise BundleError(f"{file}: max_depth is {values['max_depth']}; expected more than min_depth ({values['min_depth']})")


def _check_limits(file: Path, limits: dict[str, Any]) -> None:
    for precision, figures in limits.items():
        _check_name(f"{file}: limits", precision, PRECISIONS)
        if not isinstance(figures, dict):
            raise BundleError(f"{file}: limits: {precision} is {figures!r}; expected {', '.join(LIMITED)}, each with a number")
        for name, value in figures.items():
            _check_name(f"{file}: limits: {precision}", name, LIMITED)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
                raise BundleError(
                    f"{file}: limits: {precision}: {name} is {value!r}; expected a positive number, a relative difference"
                )


def _check_name(where: str, name: object, known: tuple[str, ...]) -> None:
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise BundleError(f"{where}: unknown key '{name}'{hint} (known: {', '.join(known)})")


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(block)
    except OSError as error:
        raise BundleError(f"{file}: cannot be read ({error.strerror}); expected a file that this user may read") from error
    return digest.hexdigest()
