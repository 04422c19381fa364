"""How exact a bundle is on real images with truth, and how honest its sigma, beside the trivial baselines.

python benchmarks/accuracy.py ../shared/data/kitti2015_stereo ../shared/data/kitti_raw_0926_traffic
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError
from depth_ros.truth import PROTOCOL
from depth_ros.types import InputError
from training.config import ConfigError
from training.data.truth import open_evaluation_set
from training.evaluate import Scores, evaluate, evaluate_baselines, format_table, open_estimator

ROOT = Path(__file__).resolve().parents[1]
CALIBRATION_SET = "kitti2015_stereo"  # its even images fitted the shipped bundle's sigma: judge sigma on the odd ones


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="folders with meta.json, images and truth")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "default", help="bundle (default: models/default)")
    out = ROOT / "benchmarks" / "results" / "accuracy.json"
    parser.add_argument("--out", type=Path, default=out, help="JSON to write (default: benchmarks/results/accuracy.json)")
    options = parser.parse_args(arguments)
    report = describe_run("accuracy.py", arguments) | {"model": from_root(options.model), "protocol": PROTOCOL}
    try:
        report["results"] = judge_sets(options.model, options.data)
        write_report(report, options.out)
    except (BundleError, ConfigError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def judge_sets(model: Path, folders: Sequence[Path]) -> dict[str, dict[str, Scores]]:
    """Print a table per folder and return the scores: {folder: {baseline or model: scores}}."""
    estimator, results = open_estimator(model), {}
    sets = [open_evaluation_set(folder) for folder in folders]
    for dataset in [*sets, *(s.every_second(1) for s in sets if s.name == CALIBRATION_SET)]:
        rows = {**evaluate_baselines(dataset), from_root(model): evaluate(estimator, dataset)}
        print(format_table(dataset.name, rows), flush=True)
        results[dataset.name] = rows
    return results


def from_root(path: Path) -> str:
    """The path as seen from the repository's root: the same wherever that lies and the command was given."""
    return Path(os.path.relpath(path, ROOT)).as_posix()


if __name__ == "__main__":
    sys.exit(main())
