"""What methods and kinds of supervision teach, each run with equal steps and two seeds, beside the mean map.

    python benchmarks/learning.py [--suite streets] [--seeds 0 1] [--rows NAME ...] [--data ../shared/data]

`streets`: kinds of supervision in the procedural streets, judged on 96 views with textures that no run has seen. `kitti`:
Monodepth2 in M, S and MS on stereo video (KITTI odometry 06, 51 grey pairs), judged on KITTI Stereo 2015. `kitti_features`: the
same with the losses of FeatDepth and of the low-texture system beside the photometric one. `featdepth` and `low_texture`: what
each part of these systems does, one change a run, on stereo pairs of procedural worlds whose walls and floors are half plain,
judged on 96 unseen views of such. `monodiffusion`: what each part of the diffusion student does, on stereo pairs of streets,
beside its teacher and that teacher trained longer; `monodiffusion_kitti`: four of these runs on video with known poses (KITTI
odometry 00, 900 frames), judged on KITTI Stereo 2015. `midas`: losses of relative depth and ways to mix three datasets, judged
on four sets. An interrupted run goes on; a finished one is not repeated (remove runs/learning to start over).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from benchmarks.suites import SUITES, Exam, Suite
from depth_ros.types import InputError
from training.config import ConfigError
from training.data.truth import EvaluationSet
from training.evaluate import open_model
from training.judging.judge import Judgement, judge_baselines, judge_set
from training.judging.protocols import Protocol

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path("runs/learning")
COLUMNS = (
    "abs_rel", "abs_rel_median_scaled", "sq_rel", "rmse", "delta1", "ause_abs_rel", "aurg_abs_rel", "textured", "texture-less",
    "edge_sharpness", "flying_pixel_rate",
)  # fmt: skip
# Not for depth that has to be aligned more than others, for example by its median where metres are judged.
RAW = ("abs_rel", "sq_rel", "rmse", "delta1", "textured", "texture-less")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, nargs="+", default=list(SUITES), help="which (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(default: 0 1)")
    parser.add_argument("--rows", nargs="+", default=[], metavar="NAME", help="of one suite (default: all)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="real data (default: ../shared/data)")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="for every run, for example run.max_steps=20")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"where the runs are kept (default: {RUNS})")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time (default: one per core)")
    out = ROOT / "benchmarks" / "results"
    parser.add_argument("--out", type=Path, default=out, help="folder for learning_<suite>.json (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    os.chdir(ROOT)
    report = describe_run("learning.py", arguments)
    try:
        for name in options.suite:
            results = run_suite(name, options)
            write_report(report | {"suite": name} | results, options.out / f"learning_{name}.json")
    except (ConfigError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run_suite(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train and judge every run of a suite with every seed; print and return the figures, as lists over the seeds."""
    suite = SUITES[name].only(options.rows)
    checkpoints: dict[tuple[str, int], Path] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        for stage in (suite.first, suite.runs, suite.then):
            jobs = [(run, seed) for seed in options.seeds for run in stage]
            checkpoints |= dict(zip(jobs, pool.map(lambda job: train(suite, name, *job, options), jobs), strict=True))
    results: dict[str, Any] = {"protocol": "", "rows": {}, "groups": {}}
    for exam in suite.exams:
        dataset = exam.open(options.data)
        subject = f"{dataset.name}, " if len(suite.exams) > 1 else ""
        judged = judge_runs(exam, dataset, {job: file for job, file in checkpoints.items() if job[0] not in suite.unjudged})
        rows = {row: [figures(judgement, exam.protocol) for judgement in seeds] for row, seeds in judged.items()}
        print(f"{name}: {dataset.name}, {len(dataset)} images. {exam.protocol.describe()}\n{table(rows)}", flush=True)
        results["protocol"] += f"{subject}{exam.protocol.describe()}. "
        for row, seeds in rows.items():
            columns = {subject + c: [s.get(c) for s in seeds] for c in COLUMNS}
            results["rows"].setdefault(row, {}).update(columns)
        results["groups"] |= {subject + row: [_rounded(judgement.groups) for judgement in seeds] for row, seeds in judged.items()}
    return results


def judge_runs(exam: Exam, dataset: EvaluationSet, runs: Mapping[tuple[str, int], Path]) -> dict[str, list[Judgement]]:
    """Baselines and runs ((name, seed) -> checkpoint), by name, a judgement per seed."""
    judged = {row: [judgement] for row, judgement in judge_baselines(dataset, exam.protocol).items()}
    for (run, _), checkpoint in runs.items():
        judged.setdefault(run, []).append(judge_set(open_model(checkpoint), dataset, exam.protocol))
    return judged


def _rounded(groups: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {group: {name: round(value, 5) for name, value in scores.items()} for group, scores in groups.items()}


def figures(judged: Judgement, protocol: Protocol) -> dict[str, float]:
    """The columns of one run; those in metres only where its depth is aligned as the protocol wants it."""
    scores = judged.scores | {group: found["abs_rel"] for group, found in judged.groups.items()}
    return {c: scores[c] for c in COLUMNS if c in scores and (judged.scaling == protocol.scaling or c not in RAW)}


def train(suite: Suite, name: str, run: str, seed: int, options: argparse.Namespace) -> Path:
    """Train one run in a process of its own, on one thread; return the checkpoint that is judged. Raises InputError."""
    folder = run_folder(options.runs / name, run, seed)
    changes = (f"data.root={options.data}", *overrides(suite, run, seed, options.runs / name), *options.set)
    command = [sys.executable, "-m", "training.train", suite.config]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        done = subprocess.run(
            [*command, *(word for change in changes for word in ("--set", change))],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise InputError(f"the run '{run}', seed {seed}, ended with status {done.returncode}; see {log.name}")
    return folder / suite.judged


def run_folder(suite_folder: Path, run: str, seed: int) -> Path:
    """Where a run of a suite is kept."""
    return suite_folder / f"{re.sub('[^a-zA-Z0-9.]+', '_', run).strip('_')}_{seed}"


def overrides(suite: Suite, run: str, seed: int, suite_folder: Path) -> tuple[str, ...]:
    """How a run's configuration differs from the suite's YAML."""
    own = [change.format(folder=suite_folder, seed=seed) for change in suite.all_runs[run]]
    return (*own, f"run.seed={seed}", f"run.dir={run_folder(suite_folder, run, seed)}")


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean over the seeds, and half their range, for a reader."""
    lines = [" " * 20 + "".join(f"{column:>24}" for column in COLUMNS)]
    for row, seeds in rows.items():
        values = [[scores[c] for scores in seeds if c in scores] for c in COLUMNS]
        cells = [f"{np.mean(v):.3f} +- {np.ptp(v) / 2:.3f}" if v else "-" for v in values]
        lines.append(f"{row:20}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
