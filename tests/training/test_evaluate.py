"""Evaluation against predictors and sets whose scores follow on paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from depth_ros.bundle import ModelBundle
from depth_ros.types import CameraModel, InputError
from training.checkpoint import save_checkpoint
from training.data.truth import open_evaluation_set
from training.evaluate import TorchEngine, describe_method, evaluate, evaluate_baselines, main, open_estimator
from training.methods import Method

CAMERA = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)  # the probe bundle's, so that nothing is resized or scaled
Build = Callable[..., Method]
MakeBundle = Callable[..., ModelBundle]
WriteSet = Callable[..., Path]


def pictures(depths: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Images (N, 32, 64, 3) that the probe bundle reads as depth (red / 10) and sigma (green / 100)."""
    images = np.zeros((*depths.shape, 3), np.uint8)
    images[..., 0], images[..., 1] = np.round(10 * depths), np.round(100 * sigmas)
    return images


def flat(*depths: float) -> np.ndarray:
    return np.array(depths)[:, None, None] * np.ones((len(depths), 32, 64))


@pytest.fixture
def sloping() -> np.ndarray:
    """Two images whose depth rises from 2 m to 20 m."""
    return np.round(np.linspace(2, 20, 64), 1)[None, None].repeat(32, axis=1).repeat(2, axis=0)


@pytest.mark.parametrize("baseline_m", [None, 0.5], ids=["depth", "disparity"])
def test_a_perfect_predictor_scores_zero(
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, sloping: np.ndarray, baseline_m: float | None
) -> None:
    folder = write_set(tmp_path / "set", CAMERA, pictures(sloping, flat(0.1, 0.1)), sloping, baseline_m)
    scores = evaluate(open_estimator(make_bundle().path), open_evaluation_set(folder))
    precision = 1e-6 if baseline_m is None else 2e-3  # of the stored disparity
    assert scores["images"] == 2
    assert scores["abs_rel"] == pytest.approx(0.0, abs=max(precision, 2 / 256 / 2))
    assert scores["delta1"] == scores["coverage_1sigma"] == 1.0


def test_scores_are_means_over_images(tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet) -> None:
    """One image 20 % too far, the other 50 % too near; sigma reaches the truth of the first only."""
    folder = write_set(tmp_path / "set", CAMERA, pictures(flat(12.0, 5.0), flat(2.5, 1.0)), flat(10.0, 10.0))
    scores = evaluate(open_estimator(make_bundle().path), open_evaluation_set(folder))
    assert scores["abs_rel"] == pytest.approx((0.2 + 0.5) / 2, rel=1e-5)
    assert scores["abs_rel_median_scaled"] == pytest.approx(0.0, abs=1e-6)
    assert scores["rmse"] == pytest.approx((2.0 + 5.0) / 2, rel=1e-5)
    assert scores["delta1"] == 0.5
    assert scores["coverage_1sigma"] == 0.5


def test_the_baselines_know_only_the_other_images(tmp_path: Path, write_set: WriteSet) -> None:
    """Truths of 2 m and 8 m: the mean map predicts the other's, the constant their geometric mean, 4 m."""
    folder = write_set(tmp_path / "set", CAMERA, pictures(flat(1, 1), flat(1, 1)), flat(2.0, 8.0))
    rows = evaluate_baselines(open_evaluation_set(folder))
    assert rows["mean map"]["abs_rel"] == pytest.approx((6 / 2 + 6 / 8) / 2, rel=1e-5)
    assert rows["constant"]["abs_rel"] == pytest.approx((2 / 2 + 4 / 8) / 2, rel=1e-5)
    assert rows["constant"]["abs_rel_median_scaled"] == pytest.approx(0.0, abs=1e-6)


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, sloping: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    truths = np.concatenate([sloping, flat(4.0, 6.0)])
    folder = write_set(tmp_path / "set", CAMERA, pictures(1.1 * truths, 0.1 * truths), truths)
    bundle, file = make_bundle(), tmp_path / "scores.json"
    assert main([str(bundle.path), str(folder), "--half", "1", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("set[1::2]: 2 images, protocol kitti2015: truth above 0.001 and below 80 m, garg crop")
    assert "scaling none: raw metres" in printed
    lines = printed.splitlines()
    table = next(i for i, line in enumerate(lines) if "abs_rel*" in line)
    names = ["constant", "mean map", "mean map, pooled", str(bundle.path)]
    assert [lines[table + 1 + i].startswith(f"{name} ") for i, name in enumerate(names)] == [True] * 4
    rows = json.loads(file.read_text())["results"]["set[1::2]"]
    assert rows[str(bundle.path)]["abs_rel"] == pytest.approx(0.1, abs=0.01)
    assert rows[str(bundle.path)]["images"] == 2
    assert f"  {rows[str(bundle.path)]['abs_rel']:.3f}  " in lines[table + 4]


def test_a_checkpoint_is_judged_by_the_robots_code(tmp_path: Path, build: Build, street_set: Path) -> None:
    method = build("supervised").eval()
    save_checkpoint(tmp_path / "best.ckpt", {"average": AveragedModel(method, use_buffers=True)}, method.config, 1, 1.0)
    estimator = open_estimator(tmp_path / "best.ckpt")
    frame = next(iter(open_evaluation_set(street_set))).frame
    prediction = estimator.predict([frame])[0]
    with torch.no_grad():
        depth, sigma = method.predict(torch.from_numpy(frame.image.copy()).permute(2, 0, 1)[None].float() / 255)
    assert prediction.depth == pytest.approx(depth[0, 0].numpy(), rel=1e-4)
    assert prediction.sigma == pytest.approx(sigma[0, 0].numpy(), rel=1e-4)


def test_a_methods_description_is_what_the_robot_needs(build: Build, camera: CameraModel) -> None:
    method = build("monodepth2", network={"min_depth": 2.0, "max_depth": 60.0})
    method.sigma_calibration.fill_(1.5)
    described = describe_method(method, "mine")
    assert (described.width, described.height) == (192, 64)
    assert (described.fx, described.fy) == pytest.approx((camera.fx, camera.fy))
    assert (described.min_depth, described.sigma_calibration) == (2.0, 1.5)
    assert described.max_depth == pytest.approx(48.0)  # beyond 0.8 of the network's range is sky
    assert described.kind == "metric"
    unscaled = build("monodepth2", data={"known_poses": False})
    assert describe_method(unscaled, "mine").kind == "scale_invariant"


def test_an_engine_in_torch_tells_what_it_is(build: Build) -> None:
    engine = TorchEngine(build("supervised"))
    assert engine.describe() == f"torch {torch.__version__}, CPU"
    engine.close()


def test_a_set_without_matching_truth(tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet) -> None:
    folder = write_set(tmp_path / "set", CAMERA, pictures(flat(5.0), flat(1.0)), flat(5.0))
    (folder / "depth" / "000000.png").rename(folder / "depth" / "other.png")
    dataset = open_evaluation_set(folder)
    for judge in (evaluate_baselines, lambda d: evaluate(open_estimator(make_bundle().path), d)):
        with pytest.raises(
            InputError, match="set: no image has truth to compare with; expected truth files named like the images"
        ):
            judge(dataset)
    with pytest.raises(InputError, match="no image has truth to compare with"):
        evaluate_baselines(replace(dataset, targets=()))


@pytest.mark.parametrize("missing", ["model", "bundle", "set"])
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path, make_bundle: MakeBundle, street_set: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    model, data, expected = {
        "model": (tmp_path / "nowhere.ckpt", street_set, "nowhere.ckpt: no such checkpoint"),
        "bundle": (tmp_path, street_set, "bundle.yaml: missing"),
        "set": (make_bundle().path, tmp_path / "nowhere", "meta.json"),
    }[missing]
    assert main([str(model), str(data)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
