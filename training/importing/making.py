"""A published network's bundle: wrapped, compared with the file as it is, and written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from depth_ros import bundle as bundles
from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS
from depth_ros.graphs import frame_graph, prepare
from depth_ros.types import InputError
from training.bundle_writing import PARITY, ExportError, difference, draft_of, probe_images, stated
from training.calibration import running
from training.data.truth import EvaluationSet
from training.evaluate import evaluate
from training.importing.original import Original
from training.importing.presets import Interface
from training.importing.sigma import Constant, Sigma, fit_table
from training.importing.wrapping import expected, wrap

HALF_PARITY = 0.1  # of a sigma that is the difference of two depths, each rounded to 0.1 %
CAMERA = (1280, 720)  # [px] whose frame graph is tried


@dataclass(frozen=True)
class Import:
    """What is known of a published network besides its file."""

    interface: Interface
    focal: tuple[float, float]  # fx, fy [px] of the training camera at the network's size
    sigma: Sigma = field(default_factory=Constant)
    facts: Mapping[str, Any] = field(default_factory=dict)  # of ModelBundle: trained_on, licence, provenance


def import_network(original: Original, folder: Path, known: Import) -> ModelBundle:
    """Write the bundle of a network into `folder`, which stays as it was if something is raised.

    Raises ExportError if the graph is not what the network and NumPy make of images, and BundleError.
    """
    low, high = known.interface.range
    description = ModelBundle(
        name=folder.name, width=original.width, height=original.height, fx=known.focal[0], fy=known.focal[1],
        kind=known.interface.kind, min_depth=low, max_depth=high, sigma_calibration=1.0,
        **{"trained_on": "unstated", "licence": "unstated", "limits": DEFAULT_LIMITS, **known.facts},
    )  # fmt: skip
    with draft_of(folder) as draft:
        onnx.save(wrap(original, known.interface, known.sigma), draft / "model.onnx")
        found = check_parity(original, known, bundles.save(description, draft))
        bundles.save(replace(description, provenance={**description.provenance, "parity": f"{found:.1e}"}), draft)
    return bundles.load(folder)


def check_parity(original: Original, known: Import, bundle: ModelBundle) -> float:
    """difference() between the bundle and the original with NumPy around it.

    Raises ExportError unless it is below PARITY, or HALF_PARITY where the network calculates in float16.
    """
    images = probe_images(bundle)
    with closing(load_engine(bundle)) as engine:
        found = difference(engine.infer(images), expected(original, known.interface, known.sigma, images))
    limit = HALF_PARITY if original.rounds else PARITY
    if not found < limit:
        raise ExportError(
            f"{original.file}: wrapped, it differs from the file as it is by {found:.2g} relative; expected below {limit:g}: "
            "its depth is not finite on noise or ramps (is --like right?), or the conversion of its opset changed it"
        )
    return found


def with_fitted_sigma(original: Original, known: Import, dataset: EvaluationSet) -> Import:
    """What is known, with a table of sigma by depth from every other image of a set. Raises InputError."""
    if known.interface.kind != "metric":
        raise InputError(
            f"--sigma fit: kind is '{known.interface.kind}', whose depth is in no unit that a table by depth could have; "
            "expected flip or constant, or --fit-metric, which makes metres of relative inverse depth and fits sigma with them"
        )
    with TemporaryDirectory() as temporary:
        bundle = import_network(original, Path(temporary) / "unfitted", replace(known, sigma=Constant()))
        with running(bundle) as estimator:
            return replace(known, sigma=fit_table(estimator, dataset.every_second(0)))


def judged(bundle: ModelBundle, dataset: EvaluationSet) -> ModelBundle:
    """The bundle, saved with its scores on the images that did not fit it."""
    with running(bundle) as estimator:
        scores = evaluate(estimator, dataset.every_second(1))
    return bundles.save(replace(bundle, metrics=stated(scores)), bundle.path)


def notes(bundle: ModelBundle) -> list[str]:
    """What a faster engine would not make of the graph, and that a wrong interface may show in."""
    found = []
    with closing(load_engine(bundle)) as engine:
        depth = engine.infer(probe_images(bundle))[0]
    if not ((depth >= bundle.min_depth) & (depth <= bundle.max_depth)).any():
        found.append(
            f"on noise and ramps no depth is from {bundle.min_depth:g} to {bundle.max_depth:g}, so that nothing is in range: "
            "are --like, --gives, --factor and --range right?"
        )
    for name, make in (
        ("fp16", lambda: prepare(bundle, "fp16")),
        ("the frame graph of GPUs", lambda: frame_graph(bundle, *CAMERA, "fp32")),
    ):
        try:
            make()
        except EngineError as error:
            found.append(f"no {name}: {error}")
    return found
