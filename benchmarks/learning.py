"""What methods and kinds of supervision teach, each run with equal steps and two seeds, beside the mean map.

    python benchmarks/learning.py [--suite streets] [--seeds 0 1] [--data ../shared/data]

`streets`: kinds of supervision in the procedural streets, judged on 96 views with textures that no run has seen. `kitti`:
Monodepth2 in M, S and MS on stereo video (KITTI odometry 06, 51 grey pairs), judged on KITTI Stereo 2015. `kitti_features`: the
same with the losses of FeatDepth and of the low-texture system beside the photometric one. `featdepth` and `low_texture`: what
each part of these systems does, one change a run, on stereo pairs of procedural worlds whose walls and floors are half plain,
judged on 96 unseen views of such. An interrupted run goes on; a finished one is not repeated (remove runs/learning to start
over).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from depth_ros.types import InputError
from training.config import ConfigError
from training.data.recording import Target
from training.data.street import StreetConfig, kitti_camera
from training.data.street.samples import StreetSamples, StreetTruth
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import open_model
from training.judging.judge import Judgement, judge_baselines, judge_set
from training.judging.protocols import PROTOCOLS

ROOT = Path(__file__).resolve().parents[1]
RUNS = Path("runs/learning")
PROTOCOL = PROTOCOLS["kitti2015"]
COLUMNS = ("abs_rel", "abs_rel_median_scaled", "sq_rel", "rmse", "delta1", "aurg_abs_rel", "textured", "texture-less")
# In metres: not for depth that is true up to a factor, whose errors are median-scaled.
RAW = ("abs_rel", "sq_rel", "rmse", "delta1", "textured", "texture-less")


PLAIN = (  # the low-texture system without what is its own
    "method.name=monodepth2", "method.smoothness_order=first", "network.decoder=monodepth2",
    "network.last_relu_only=false", "network.pooled_shortcut=false",
)  # fmt: skip

STEREO = ("data.stereo=true", "data.offsets=[[]]")
SMOOTHER = "method.smoothness_order=both"
MULTI_SCALE = ("method.name=low_texture", "feature.levels=[0, 1, 2]", "feature.weight=1", "feature.detach=true")
FEATURE_NET = ("method.name=feature_net", "data.street_views=[]")  # FeatDepth's auto-encoder by itself


@dataclass(frozen=True)
class Suite:
    """Runs that differ in what they learn from, and nothing else."""

    config: str  # YAML that all share
    runs: Mapping[str, tuple[str, ...]]  # name -> overrides; {folder} is the suite's, {seed} the run's own
    open: Callable[[Path], EvaluationSet]  # folder of the real data -> the images that judge this suite's runs
    first: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # runs that others start from, in {folder}/<name>_{seed}
    judged: str = "best.ckpt"  # by validation loss; last.ckpt where runs minimise different losses


def unseen_worlds(name: str, each: int, scenes: Sequence[str], plain: float = StreetConfig.plain) -> EvaluationSet:
    """`each` views per scene at 192x64, with the textures that training does not show; a share `plain` has none."""
    targets: list[Target] = []
    for scene in scenes:
        world = StreetConfig(scene=scene, textures="test", plain=plain)
        truth = StreetTruth(StreetSamples(kitti_camera(192, 64), each, seed=900, config=world), scene)
        targets += [Target(truth, index) for index in range(len(truth))]
    return EvaluationSet(name, tuple(targets))


def unseen_plain_worlds(data: Path) -> EvaluationSet:
    """Streets, rooms and grounds, half of them without texture; needs no data."""
    return unseen_worlds("unseen plain worlds", 32, ("street", "room", "ground"), plain=0.5)


SUITES: dict[str, Suite] = {
    "streets": Suite(
        "benchmarks/learning_streets.yaml",
        {
            "supervised": ("method.name=supervised",),
            "stereo": ("data.street_views=[right]",),
            "mono, known poses": ("data.street_views=[before, after]",),
            "mono, learned poses": (
                "data.street_views=[before, after]",
                "data.known_poses=false",
                "method.normalise_disparity=true",
            ),
        },
        lambda data: unseen_worlds("unseen streets", 96, ["street"]),
    ),
    "kitti": Suite(
        "benchmarks/learning_kitti.yaml",
        {
            "M, learned poses": ("data.known_poses=false", "method.normalise_disparity=true"),
            "M, known poses": (),
            "S": STEREO,
            "MS, learned poses": ("data.stereo=true", "data.known_poses=false"),
            "MS, known poses": ("data.stereo=true",),
        },
        lambda data: open_evaluation_set(data / "kitti2015_stereo"),
    ),
    "kitti_features": Suite(
        "benchmarks/learning_kitti.yaml",
        {
            "S, photometric": (*STEREO, SMOOTHER),
            "S, FeatDepth": (*STEREO, SMOOTHER, "method.name=featdepth"),
            "S, low-texture loss": (*STEREO, SMOOTHER, *MULTI_SCALE),
            "M, photometric": (SMOOTHER,),
            "M, FeatDepth": (SMOOTHER, "method.name=featdepth"),
            "M, low-texture loss": (SMOOTHER, *MULTI_SCALE),
            "MS, photometric": ("data.stereo=true", SMOOTHER),
            "MS, FeatDepth": ("data.stereo=true", SMOOTHER, "method.name=featdepth"),
            "MS, low-texture loss": ("data.stereo=true", SMOOTHER, *MULTI_SCALE),
        },
        lambda data: open_evaluation_set(data / "kitti2015_stereo"),
    ),
    "featdepth": Suite(
        "benchmarks/learning_featdepth.yaml",
        {
            "photometric alone": ("method.name=monodepth2",),
            "+ features, L_rec": ("feature.discriminative=0", "feature.convergent=0"),
            "+ L_dis": ("feature.convergent=0",),
            "+ L_cvt": ("feature.discriminative=0",),
            "+ both (FeatDepth)": (),
            "the same, frozen": ("feature.checkpoint={folder}/feature_net_{seed}/last.ckpt",),
            "the same, three levels": ("feature.levels=[0, 1, 2]",),
            "the same, weight .1": ("feature.weight=0.1",),
        },
        unseen_plain_worlds,
        first={
            "feature_net": FEATURE_NET,
            "feature_net L_rec": (*FEATURE_NET, "feature.discriminative=0", "feature.convergent=0"),  # for landscape.py
        },
        judged="last.ckpt",
    ),
    "low_texture": Suite(
        "benchmarks/learning_low_texture.yaml",
        {
            "baseline": PLAIN,
            "ReLU in last blocks": (*PLAIN, "network.last_relu_only=true"),
            "max-pool shortcut": (*PLAIN, "network.pooled_shortcut=true"),
            "nested skips": (*PLAIN, "network.decoder=nested"),
            "smoothness, second": (*PLAIN, "method.smoothness_order=second"),
            "smoothness, both": (*PLAIN, "method.smoothness_order=both"),
            "features, one scale": (*PLAIN, "method.name=low_texture", "feature.levels=[0]"),
            "features, three": (*PLAIN, "method.name=low_texture"),
            "all together": (),
        },
        unseen_plain_worlds,
        judged="last.ckpt",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, nargs="+", default=list(SUITES), help="which (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="(default: 0 1)")
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
    suite = SUITES[name]
    jobs = [(run, seed) for seed in options.seeds for run in suite.runs]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda job: train(suite, name, *job, options), [(run, s) for s in options.seeds for run in suite.first]))
        checkpoints = list(pool.map(lambda job: train(suite, name, *job, options), jobs))
    dataset = suite.open(options.data)
    judged = {row: [judgement] for row, judgement in judge_baselines(dataset, PROTOCOL).items()}
    for (run, _), checkpoint in zip(jobs, checkpoints, strict=True):
        judged.setdefault(run, []).append(judge_set(open_model(checkpoint), dataset, PROTOCOL))
    rows = {row: [figures(judgement) for judgement in seeds] for row, seeds in judged.items()}
    print(f"{name}: {len(dataset)} images. {PROTOCOL.describe()}\n{table(rows)}", flush=True)
    return {
        "protocol": PROTOCOL.describe(),
        "rows": {row: {c: [s.get(c) for s in seeds] for c in COLUMNS} for row, seeds in rows.items()},
        "groups": {row: [_rounded(judgement.groups) for judgement in seeds] for row, seeds in judged.items()},
    }


def _rounded(groups: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {group: {name: round(value, 5) for name, value in scores.items()} for group, scores in groups.items()}


def figures(judged: Judgement) -> dict[str, float]:
    """The columns of one run; those in raw metres only where the run's depth is metric."""
    scores = judged.scores | {group: found["abs_rel"] for group, found in judged.groups.items()}
    return {c: scores[c] for c in COLUMNS if c in scores and (judged.scaling == "none" or c not in RAW)}


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
    own = [change.format(folder=suite_folder, seed=seed) for change in {**suite.first, **suite.runs}[run]]
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
