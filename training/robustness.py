"""How much a model suffers from corrupted images: DEE, mCE and mRR (RoboDepth, Kong et al., NeurIPS 2023).

python -m training.robustness models/default ../shared/data/kitti2015_stereo --severities 1,3,5 --json robustness.json

KITTI-C-like: see training.data.corruptions.table for what differs from KITTI-C. The corruption is applied at the network's input
resolution, as RoboDepth does, so every model sees it at its own; depth is scaled per image by the median.
Above the DEE of the mean map, which looks at no image, a model would do better to close its eyes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from depth_ros import metrics
from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError
from depth_ros.types import Frame, InputError
from training.config import ConfigError
from training.data.corruptions.table import CORRUPTIONS, SEVERITIES, corrupt
from training.data.truth import EvaluationItem, EvaluationSet, open_evaluation_set
from training.evaluate import Model, evaluate_baselines, open_model
from training.judging.protocols import PROTOCOLS, SCALINGS, align

BENCHMARK = "KITTI-C-like: 18 corruptions, frost synthesised; corrupted at the network's input resolution"
PROTOCOL = PROTOCOLS["eigen"]  # KITTI-C are the images of its test split
CLEAN = "clean"
BASELINE = "mean map"


@dataclass(frozen=True)
class Score:
    """Means over images."""

    abs_rel: float
    delta1: float
    answered: float  # share of the truth's pixels for which there is depth; the others count neither for nor against

    @property
    def dee(self) -> float:
        """Depth estimation error, see depth_estimation_error()."""
        return depth_estimation_error(self.abs_rel, self.delta1)


UNANSWERED = Score(abs_rel=1.0, delta1=0.0, answered=0.0)  # of an image without any depth: DEE 1
Scores = dict[str, list[Score]]  # clean: [score], corruption: one score per severity


def depth_estimation_error(abs_rel: float, delta1: float) -> float:
    """DEE = (AbsRel - delta1 + 1) / 2: 0 is perfect; lower is better."""
    return (abs_rel - delta1 + 1) / 2


def corruption_errors(dees: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """CE per corruption: DEE relative to the reference model's (1: as good, lower is better). mCE is their mean.

    Raises InputError if the reference lacks a corruption, or errs nowhere.
    """
    useless = [name for name in dees if not reference.get(name, 0.0) > 0]
    if useless:
        raise InputError(
            f"the reference has no DEE above 0 for {', '.join(useless)}; expected one: evaluate it on the same corruptions"
        )
    return {name: dee / reference[name] for name, dee in dees.items()}


def resilience_rates(dees: Mapping[str, float], clean: float) -> dict[str, float]:
    """RR per corruption: the share of the clean accuracy 1 - DEE that is left (higher is better). mRR is their mean.

    Raises InputError if there is no accuracy to lose.
    """
    if not clean < 1:
        raise InputError(f"DEE on the clean images is {clean:.3f}; expected below 1: this model knows nothing that it could lose")
    return {name: (1 - dee) / (1 - clean) for name, dee in dees.items()}


def mean(values: Mapping[str, float]) -> float:
    """Mean over corruptions."""
    return float(np.mean(list(values.values())))


def evaluate_corrupted(model: Model, dataset: EvaluationSet, names: Sequence[str], severities: Sequence[int]) -> Scores:
    """Score the clean and the corrupted images of a set; image i is corrupted with seed i. Raises InputError without truth."""
    found: dict[str, list[list[Score]]] = {CLEAN: [[]], **{name: [[] for _ in severities] for name in names}}
    for seed, item in enumerate(tqdm(_judgeable(dataset), desc=dataset.name, leave=False, disable=None)):
        frame = model.estimator.resize(item.frame)
        found[CLEAN][0].append(_score(model, item, frame))
        for name in names:
            for scores, severity in zip(found[name], severities, strict=True):
                corrupted = replace(frame, image=corrupt(frame.image, name, severity, seed))
                scores.append(_score(model, item, corrupted))
    if not found[CLEAN][0]:
        raise InputError(f"{dataset.name}: no image has truth to compare with; expected some by {PROTOCOL.describe()}")
    return {name: [_mean_score(scores) for scores in by_severity] for name, by_severity in found.items()}


def _judgeable(dataset: EvaluationSet) -> Iterable[EvaluationItem]:
    """The images with some truth that counts."""
    return (item for item in dataset if PROTOCOL.mask(item.truth).any())


def _score(model: Model, item: EvaluationItem, frame: Frame) -> Score:
    prediction = model.predict(replace(item, frame=frame), PROTOCOL)
    counted = PROTOCOL.mask(item.truth)
    valid = counted & ~np.isnan(prediction.depth)
    if not valid.any():
        return UNANSWERED
    depth = align(prediction, item.truth, valid, PROTOCOL.scaling_for(model.kind)).depth
    errors = metrics.depth_errors(depth, item.truth, valid, PROTOCOL.clamp_max_m, PROTOCOL.clamp_min_m)
    return Score(errors["abs_rel"], errors["delta1"], float(valid.sum() / counted.sum()))


def _mean_score(scores: Sequence[Score]) -> Score:
    return Score(*np.mean([(s.abs_rel, s.delta1, s.answered) for s in scores], axis=0).tolist())


def summarise(scores: Scores, reference: Mapping[str, float] | None) -> dict[str, Any]:
    """Everything about one model, ready to plot: per corruption the curves over severity, DEE, RR and (with a reference) CE."""
    dees = {name: float(np.mean([s.dee for s in curve])) for name, curve in scores.items() if name != CLEAN}
    (clean,) = scores[CLEAN]
    resilience = resilience_rates(dees, clean.dee)
    summary: dict[str, Any] = {CLEAN: asdict(clean) | {"dee": clean.dee}, "mrr_percent": 100 * mean(resilience)}
    errors = corruption_errors(dees, reference) if reference else {}
    if errors:
        summary["mce_percent"] = 100 * mean(errors)
    summary["corruptions"] = {
        name: {
            "abs_rel": [s.abs_rel for s in scores[name]],
            "delta1": [s.delta1 for s in scores[name]],
            "answered": [s.answered for s in scores[name]],
            "dee_by_severity": [s.dee for s in scores[name]],
            "dee": dee,
            "rr_percent": 100 * resilience[name],
            **({"ce_percent": 100 * errors[name]} if errors else {}),
        }
        for name, dee in dees.items()
    }
    return summary


def read_reference(file: Path, conditions: Mapping[str, Any]) -> dict[str, float]:
    """DEE per corruption from a --json of another run. Raises InputError if it was made under other conditions."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        dees = {name: float(values["dee"]) for name, values in report["model"]["corruptions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: {error!r}; expected a file that training.robustness --json wrote") from error
    for key, expected in conditions.items():
        if report.get(key) != expected:
            raise InputError(f"{file}: {key} is {report.get(key)!r}; expected {expected!r}: evaluate the reference likewise")
    return dees


def format_table(report: Mapping[str, Any]) -> str:
    """The report as text."""
    model, severities = report["model"], report["severities"]
    curves = model["corruptions"]
    has_reference = "mce_percent" in model
    single = ((f"{BASELINE}, no image", report["baseline"]["dee"]), (CLEAN, model[CLEAN]["dee"]))
    lines = [
        f"{report['path']} on {report['set']}: {report['images']} images, {len(curves)} of {len(CORRUPTIONS)} corruptions",
        report["benchmark"],
        f"{report['protocol']}; scaling: {SCALINGS[report['scaling']]}",
        f"{'DEE at severity':20}" + "".join(f"{s:>7}" for s in severities) + "   mean    RR %" + "    CE %" * has_reference,
        *(f"{name:20}" + " " * 7 * len(severities) + f"{dee:7.3f}" for name, dee in single),
    ]
    for name, values in curves.items():
        numbers = "".join(f"{dee:7.3f}" for dee in [*values["dee_by_severity"], values["dee"]])
        error = f"{values['ce_percent']:8.1f}" if has_reference else ""
        lines.append(f"{name:20}{numbers}{values['rr_percent']:8.1f}{error}")
    lines.append(f"mRR {model['mrr_percent']:.2f} %")
    if has_reference:
        lines.append(f"mCE {model['mce_percent']:.2f} % relative to {report['reference']}")
    least = min(share for values in curves.values() for share in values["answered"])
    if least < 1:
        lines.append(f"note: at worst {least:.1%} of the pixels were answered; the others count neither for nor against")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _parser().parse_args(arguments)
    try:
        report = _run(options)
        print(format_table(report))
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    except (BundleError, ConfigError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    model, dataset = open_model(options.model), open_evaluation_set(options.data, options.source, options.split, options.truth)
    scaling = PROTOCOL.scaling_for(model.kind)
    baseline = evaluate_baselines(dataset, replace(PROTOCOL, scaling=scaling))[BASELINE]
    conditions = {
        "protocol": PROTOCOL.describe(),
        "scaling": scaling,
        "set": dataset.name,
        "images": sum(1 for _ in _judgeable(dataset)),
        "severities": options.severities,
    }
    report: dict[str, Any] = {"benchmark": BENCHMARK, "path": str(options.model), **conditions}
    report["baseline"] = {"name": BASELINE, "dee": depth_estimation_error(baseline["abs_rel"], baseline["delta1"])}
    reference = None
    if options.reference_json:
        reference = read_reference(options.reference_json, conditions)
        corruption_errors(dict.fromkeys(options.corruptions, 0.0), reference)  # what it lacks shows before the long run
    elif options.reference:
        other = open_model(options.reference)
        if PROTOCOL.scaling_for(other.kind) != scaling:
            raise InputError(f"{options.reference}: is {other.kind}; expected {model.kind}, so that both are scaled alike")
        scores = evaluate_corrupted(other, dataset, options.corruptions, options.severities)
        report["reference_model"] = summarise(scores, None)
        reference = {name: values["dee"] for name, values in report["reference_model"]["corruptions"].items()}
    if reference:
        report["reference"] = str(options.reference or options.reference_json)
    scores = evaluate_corrupted(model, dataset, options.corruptions, options.severities)
    return {**report, "model": summarise(scores, reference)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="training.robustness", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="bundle folder or checkpoint")
    parser.add_argument("data", type=Path, help="evaluation set")
    reference = parser.add_mutually_exclusive_group()
    reference.add_argument("--reference", type=Path, help="bundle or checkpoint that mCE relates to, evaluated in the same run")
    reference.add_argument("--reference-json", type=Path, help="the same from its own --json, made on the same set")
    parser.add_argument("--corruptions", type=_names, default=list(CORRUPTIONS), help="comma-separated (default: all 18)")
    parser.add_argument("--severities", type=_severities, default=list(SEVERITIES), help="comma-separated (default: 1,2,3,4,5)")
    parser.add_argument("--source", default="folder", help="kind of evaluation set, see training.data.sources (default: folder)")
    parser.add_argument("--split", default="", help="of the source")
    parser.add_argument("--truth", default="", help="of the source")
    parser.add_argument("--json", type=Path, help="also write everything to this file, ready to plot")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown; expected some of {', '.join(CORRUPTIONS)}")
    return names


def _severities(text: str) -> list[int]:
    if any(part not in map(str, SEVERITIES) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}': expected some of 1,2,3,4,5")
    return sorted({int(part) for part in text.split(",")})


if __name__ == "__main__":
    sys.exit(main())
