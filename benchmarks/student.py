"""A trained diffusion student beside its teacher: what choices at export do to depth, sigma and time, and whose errors it has.

    python benchmarks/student.py STUDENT.ckpt TEACHER.ckpt [--beside NAME=CHECKPOINT[+CHECKPOINT...] ...]

Judged on the images of the suite `monodiffusion` (benchmarks/suites.py): sigma is calibrated on every other image, the rest
judges, as they are and with a square of each covered (`covered`, benchmarks/holes.py). Time is that of one image through the
exported graph, ONNX Runtime on one thread. `error_correlation` is that of the student's and the teacher's errors of log depth,
pixel by pixel, each image's median error taken off. Other models, or ensembles of several, stand beside; the figure shows all
but the choices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import holes
from benchmarks.engine_run import measure
from benchmarks.named import open_named
from benchmarks.report import describe_run, write_report
from benchmarks.suites import UNSEEN_STREETS
from depth_ros.estimator import Estimator
from depth_ros.types import Float64Array, InputError
from training.checkpoint import load_method
from training.config import ConfigError
from training.data.truth import EvaluationSet
from training.evaluate import Model, TorchEngine, describe_method
from training.export import ExportError, calibrate_sigma, export, load_predictor
from training.judging.judge import judge_set
from training.methods import Predictor

TRAILING = "diffusion.spacing=trailing"
PROTOCOL = UNSEEN_STREETS.protocol
CHOICES: dict[str, tuple[str, ...]] = {
    "5 steps each": ("diffusion.steps=[5, 5, 5]",),
    "3 steps each": ("diffusion.steps=[3, 3, 3]",),
    "2 steps each": ("diffusion.steps=[2, 2, 2]", TRAILING),
    "1 step each": ("diffusion.steps=[1, 1, 1]", TRAILING, "method.sigma=samples"),
    "2 samples": ("method.sigma=samples", "diffusion.samples=2"),
    "4 samples": ("method.sigma=samples", "diffusion.samples=4"),
    "8 samples": ("method.sigma=samples", "diffusion.samples=8"),
    "flip": ("method.sigma=flip",),
}
FIGURES = ("abs_rel", "abs_rel_median_scaled", "rmse", "delta1", "ause_abs_rel", "aurg_abs_rel", "coverage_1sigma", "nll")


def judged(method: Predictor, dataset: EvaluationSet) -> dict[str, Any]:
    """FIGURES and holes.score() on every other image, with sigma calibrated on the rest; the method keeps the calibration."""
    method.sigma_calibration.mul_(calibrate_sigma(method, dataset.every_second(0)))
    candidate, rest = open_candidate(method), dataset.every_second(1)
    found, covered = judge_set(candidate, rest, PROTOCOL).scores, holes.score(candidate, rest)
    scores = {name: round(found[name], 5) for name in FIGURES if name in found}
    return scores | {"covered": {name: round(value, 5) for name, value in covered.items()}}


def open_candidate(method: Predictor) -> Model:
    """A method behind the robot's own code, as judges want it."""
    return Model(Estimator(describe_method(method, "student"), TorchEngine(method)))


def open_members(paths: str) -> Predictor:
    """The model of CHECKPOINT[+CHECKPOINT...], several being an ensemble. Raises ConfigError."""
    return load_predictor([Path(path) for path in paths.split("+")])


def timed(method: Predictor, seconds: float) -> dict[str, Any]:
    """Milliseconds and multiply-adds of one image through the exported graph. Raises ExportError."""
    with TemporaryDirectory() as folder:
        bundle = export(method, Path(folder) / "student", describe_method(method, "student"))
        case = {"engine": "onnxruntime", "threads": 1, "precision": "fp32", "batch": 1, "seconds": seconds, "cache": folder}
        found = measure(path=str(bundle.path), **case)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.predict(torch.zeros(1, 3, bundle.height, bundle.width))
    return {"ms": found["ms"], "gmac": round(counter.get_total_flops() / 2e9, 3)}


def log_errors(method: Predictor, dataset: EvaluationSet) -> Float64Array:
    """Errors of log depth (N,) at all pixels with truth, each image's median taken off."""
    candidate, errors = open_candidate(method), []
    for item in dataset:
        valid = PROTOCOL.mask(item.truth)
        depth = candidate.predict(item, PROTOCOL).depth[valid].clip(PROTOCOL.clamp_min_m, PROTOCOL.clamp_max_m)
        error = np.log(depth.astype(np.float64) / item.truth[valid])
        errors.append(error - np.median(error))
    return np.concatenate(errors)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path, help="checkpoint of method monodiffusion")
    parser.add_argument("teacher", type=Path, help="checkpoint of its teacher")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=list(CHOICES), help="(default: all)")
    parser.add_argument("--beside", nargs="+", default=[], metavar="NAME=CHECKPOINT[+CHECKPOINT...]", help="other models")
    parser.add_argument("--images", type=int, help="only the first ones of the set, for a quick look (default: all)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of timing per choice (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of student.json")
    parser.add_argument("--figure", type=Path, default=Path("docs/student.png"), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        dataset = UNSEEN_STREETS.open(Path())
        dataset = replace(dataset, targets=dataset.targets[: options.images])
        student, teacher = load_method(options.student), load_method(options.teacher)
        shown = {"teacher": teacher, "student": student, **open_named(options.beside, open_members, "--beside ")}
        chosen = {name: load_method(options.student, CHOICES[name]) for name in options.choices}
        correlation = float(np.corrcoef(log_errors(student, dataset), log_errors(teacher, dataset))[0, 1])
        rows = {}
        for name, method in {**shown, **chosen}.items():
            rows[name] = judged(method, dataset)
            if name == "student" or name in chosen:
                rows[name] |= timed(method, options.seconds)
            print(f"{name:14}", rows[name], flush=True)
    except (ConfigError, ExportError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = describe_run("student.py", arguments) | {"protocol": PROTOCOL.describe()}
    write_report(report | {"error_correlation": round(correlation, 4), "rows": rows}, options.out / "student.json")
    holes.draw({name: open_candidate(method) for name, method in shown.items()}, dataset.every_second(1), options.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
