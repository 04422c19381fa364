"""How exact a bundle is on real images with truth, and how honest its sigma, beside the trivial baselines.

python benchmarks/accuracy.py ../shared/data/kitti2015_stereo ../shared/data/kitti_raw_0926_traffic
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import machine
from depth_ros.truth import PROTOCOL
from training.data.truth import open_evaluation_set
from training.evaluate import evaluate, evaluate_baselines, format_table, open_estimator

CALIBRATION_SET = "kitti2015_stereo"  # its even images fitted the shipped bundle's sigma: judge sigma on the odd ones


def main() -> None:
    """Print the tables and write benchmarks/results/accuracy.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+", help="folders with meta.json, images and truth")
    parser.add_argument("--model", type=Path, default=Path("models/default"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accuracy.json")
    options = parser.parse_args()
    estimator = open_estimator(options.model)
    results = {}
    sets = [open_evaluation_set(folder) for folder in options.data]
    for dataset in [*sets, *(s.every_second(1) for s in sets if s.name == CALIBRATION_SET)]:
        rows = {**evaluate_baselines(dataset), str(options.model): evaluate(estimator, dataset)}
        print(format_table(dataset.name, rows), flush=True)
        results[dataset.name] = rows
    command = " ".join(["python", *sys.argv])
    record = {"command": command, **machine(), "model": str(options.model), "protocol": PROTOCOL, "results": results}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
