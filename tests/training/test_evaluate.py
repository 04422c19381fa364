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

from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.estimator import upsample
from depth_ros.truth import judge as judge_for_the_robot
from depth_ros.types import CameraModel, InputError
from training.checkpoint import save_checkpoint
from training.data.truth import open_evaluation_set
from training.evaluate import (
    TorchEngine,
    describe_method,
    evaluate,
    evaluate_baselines,
    main,
    open_estimator,
    open_model,
    post_process,
)
from training.judging.judge import judge_set
from training.judging.protocols import PROTOCOLS, Prediction
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


def test_a_checkpoint_is_judged_by_the_robots_code(
    tmp_path: Path, build: Build, camera: CameraModel, write_set: WriteSet
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 192, 3), dtype=np.uint8)
    noise = write_set(tmp_path / "noise", camera, images, np.full((1, 64, 192), 5.0))
    method = build("supervised").eval()
    save_checkpoint(tmp_path / "best.ckpt", {"average": AveragedModel(method, use_buffers=True)}, method.config, 1, 1.0)
    estimator = open_estimator(tmp_path / "best.ckpt")
    frame = next(iter(open_evaluation_set(noise))).frame
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
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    there = write_set(tmp_path / "set", CAMERA, pictures(flat(5.0), flat(1.0)), flat(5.0))
    model, data, expected = {
        "model": (tmp_path / "nowhere.ckpt", there, "nowhere.ckpt: no such checkpoint"),
        "bundle": (tmp_path, there, "bundle.yaml: missing"),
        "set": (make_bundle().path, tmp_path / "nowhere", "meta.json"),
    }[missing]
    assert main([str(model), str(data)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def test_the_robots_judge_agrees(tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet) -> None:
    """The demo scores what was published by its own few lines (depth_ros.truth): the same figures, image by image."""
    rng = np.random.default_rng(0)
    truths = np.where(rng.random((3, 32, 64)) < 0.7, rng.uniform(2, 30, (3, 32, 64)), 0)
    depths = np.clip(truths * rng.uniform(0.7, 1.4, truths.shape), 0, 25.5)  # 25 m and more is out of the bundle's range
    dataset = open_evaluation_set(
        write_set(tmp_path / "set", CAMERA, pictures(depths, rng.uniform(0.5, 2, truths.shape)), truths)
    )
    estimator = open_estimator(make_bundle().path)
    scores = evaluate(estimator, dataset)
    theirs = [judge_for_the_robot(upsample(estimator.predict([i.frame])[0], i.frame.camera), i.truth) for i in dataset]
    for name in theirs[0]:
        assert scores[name] == pytest.approx(np.mean([image[name] for image in theirs]), rel=1e-6), name


@pytest.fixture
def learned(tmp_path: Path, build: Build) -> Path:
    """Checkpoint of a method that knows no metre."""
    method = build("monodepth2", data={"known_poses": False})
    save_checkpoint(tmp_path / "learned.ckpt", {"average": AveragedModel(method, use_buffers=True)}, method.config, 1, 1.0)
    return tmp_path / "learned.ckpt"


def test_depth_up_to_scale_is_judged_after_scaling_and_refused_by_the_robot(
    tmp_path: Path, learned: Path, write_set: WriteSet, sloping: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BundleError, match="kind is 'scale_invariant'"):
        open_estimator(learned)
    data = str(write_set(tmp_path / "set", CAMERA, pictures(sloping, sloping), sloping))
    assert main([str(learned), data, "--json", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["results"]["set"][str(learned)]
    assert scores["abs_rel"] == pytest.approx(scores["abs_rel_median_scaled"], rel=1e-4)
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith(f"{learned} "))
    assert line.split()[1] == "median"
    assert "scaling median: per image by median(truth) / median(depth)" in printed
    assert "scaling none" not in printed  # the baselines are scaled alike
    assert main([str(learned), data, "--scaling", "none"]) == 1
    assert "learned.ckpt is scale_invariant; expected median or sequence or scale_shift" in capsys.readouterr().err


def test_each_scaling_has_a_table_of_its_own(
    tmp_path: Path, make_bundle: MakeBundle, learned: Path, write_set: WriteSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of depth up to a factor and of relative inverse depth, in text, report and JSON, each with baselines of its own."""
    truths = np.stack([np.linspace(3 + k, 20 + k, 64) for k in range(3)])[:, None].repeat(32, axis=1)
    data = str(write_set(tmp_path / "set", CAMERA, pictures(truths, flat(1, 1, 1)), truths))
    (tmp_path / "relative").mkdir()
    for index, truth in enumerate(truths):
        np.save(tmp_path / "relative" / f"{index:06d}.npy", (index + 2) / truth + index - 0.7)
    model, out = str(make_bundle().path), tmp_path / "out"
    theirs = ["--predictions", f"theirs={tmp_path / 'relative'}", "--kind", "affine_invariant", "--holds", "disparity"]
    assert main([model, data, "--also", str(learned), *theirs, "--protocol", "eigen", "--report", str(out)]) == 0
    baselines = ["constant", "mean map", "mean map, pooled"]
    found = json.loads((out / "report.json").read_text())
    assert {name: list(rows) for name, rows in found["results"].items()} == {
        "set, median": [*baselines, model, str(learned)], "set, scale_shift": [*baselines, "theirs"]
    }  # fmt: skip
    for name, rows in found["details"].items():
        assert {row["scaling"] for row in rows.values()} == {name.removeprefix("set, ")}
    assert found["results"]["set, scale_shift"]["theirs"]["abs_rel"] == pytest.approx(0, abs=1e-3)
    constants = [rows["constant"]["abs_rel"] for rows in found["results"].values()]
    assert constants[1] != pytest.approx(constants[0], rel=0.01)  # the one that least squares find is another than the median
    tables = capsys.readouterr().out.split("set, ")[1:]
    pages = [(out / f"set__{name}.html").read_text() for name in ("median", "scale_shift")]
    for texts in (tables, pages):
        assert [("theirs" in text, str(learned) in text, "constant" in text) for text in texts] == [
            (False, True, True), (True, False, True)
        ]  # fmt: skip
        assert ["scaling median" in text for text in texts] == [True, False]


def test_one_factor_for_a_whole_sequence(tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet) -> None:
    """Truth is 2, 3 and 4 times the depth: one factor of 3 leaves errors of 1/2, 0 and 1/4."""
    folder = write_set(tmp_path / "set", CAMERA, pictures(flat(4, 4, 4), flat(1, 1, 1)), flat(8, 12, 16))
    dataset = open_evaluation_set(folder)
    found = judge_set(open_model(make_bundle().path), dataset, replace(PROTOCOLS["eigen"], scaling="sequence"))
    assert found.scores["abs_rel"] == pytest.approx((4 / 8 + 0 + 4 / 16) / 3, rel=1e-5)
    assert found.scores["coverage_1sigma"] == pytest.approx(1 / 3)  # sigma is 3 m, too
    assert found.scores["scale"] == pytest.approx(3)
    assert found.scores["scale_spread"] == pytest.approx(np.std([2 / 3, 1, 4 / 3]), rel=1e-5)


def test_several_models_and_predictions_in_one_table(
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, capsys: pytest.CaptureFixture[str]
) -> None:
    truths = flat(4, 6, 8)
    data = str(write_set(tmp_path / "set", CAMERA, pictures(1.5 * truths, flat(1, 1, 1)), truths))
    one, two = str(make_bundle().path), str(make_bundle(32, 16, 25.0, 25.0).path)
    for name, values in (("good", truths), ("bad", 2 * truths)):
        (tmp_path / name).mkdir()
        for index, value in enumerate(values):
            np.save(tmp_path / name / f"{index:06d}.npy", value)
    theirs = [f"--predictions={name}={tmp_path / name}" for name in ("good", "bad")]
    file = tmp_path / "scores.json"
    assert main([one, data, "--also", two, *theirs, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["results"]["set"]
    assert list(rows)[3:] == [one, two, "good", "bad"]
    assert [rows[name]["abs_rel"] for name in (one, two, "good", "bad")] == pytest.approx([0.5, 0.5, 0, 1], abs=1e-5)
    assert main(["-", data, theirs[1], "--scaling", "median", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["results"]["set"]
    assert list(rows) == ["constant", "mean map", "mean map, pooled", "bad"]
    assert rows["bad"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    capsys.readouterr()
    for wrong, message in (
        ([data, theirs[0]], "--predictions belong to one set; found 2"),
        ([data], "a set called 'set' was judged before"),
        (["--predictions", "bad"], "--predictions bad: expected NAME=FOLDER"),
        ([*theirs, theirs[0]], "the name 'good' is taken"),
        (["--predictions", f"far={tmp_path / 'nowhere'}"], "nowhere: holds no prediction"),
        (["--cap", "0"], "--cap 0: expected metres"),
        (["--source", "nothing"], "data.source is 'nothing'"),
    ):
        assert main(["-", data, *wrong]) == 1
        assert message in capsys.readouterr().err


def test_a_cap_is_part_of_the_protocols_name(
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, capsys: pytest.CaptureFixture[str]
) -> None:
    truths = flat(4, 6)
    truths[:, :, :32] = 20.0
    data = str(write_set(tmp_path / "set", CAMERA, pictures(np.where(truths == 20, 5, truths), flat(1, 1)), truths))
    assert main([str(make_bundle().path), data, "--cap", "10", "--json", str(tmp_path / "s.json")]) == 0
    assert "protocol kitti2015 to 10 m: truth above 0.001 and below 10 m" in capsys.readouterr().out
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["results"]["set"][str(tmp_path / "bundle_64x32")]["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_post_processing_trusts_each_image_at_its_better_border() -> None:
    """Disparities 1 and 3 of the two: the mirrored one's at the left 5 %, the plain one's at the right, their mean between."""
    plain = Prediction(np.full((2, 101), 1.0, np.float32), np.full((2, 101), 0.1, np.float32))
    mirrored = Prediction(np.full((2, 101), 1 / 3, np.float32), np.full((2, 101), 0.5, np.float32))
    found = post_process(plain, mirrored)
    disparity = 1 / found.depth[0]
    np.testing.assert_allclose(disparity[:6], 3, rtol=1e-5)
    np.testing.assert_allclose(disparity[10:91], 2, rtol=1e-5)
    np.testing.assert_allclose(disparity[95:], 1, rtol=1e-5)
    assert disparity[7] == pytest.approx(2 + 0.6, rel=1e-5)  # 0.07 of the width: 1 - 20 x 0.02 of the way to the mean
    np.testing.assert_allclose(found.sigma[0, [0, 50, 100]], [0.5, 0.3, 0.1], rtol=1e-5)
    hole = replace(plain, depth=np.where(np.arange(101) == 50, np.nan, plain.depth).astype(np.float32))
    assert 1 / post_process(hole, mirrored).depth[0, 50] == pytest.approx(3, rel=1e-5)
    sky = replace(plain, depth=np.full((2, 101), np.inf, np.float32))
    assert np.isinf(post_process(sky, sky).depth).all()


def test_mirroring_twice_leaves_a_pixelwise_model_as_it_is(
    tmp_path: Path, make_bundle: MakeBundle, write_set: WriteSet, sloping: np.ndarray
) -> None:
    images = pictures(1.1 * sloping, flat(0.5, 0.5))
    dataset = open_evaluation_set(write_set(tmp_path / "set", CAMERA, images, sloping))
    model = open_model(make_bundle().path)
    flipped = judge_set(model, dataset, replace(PROTOCOLS["kitti2015"], flip=True)).scores
    assert flipped == pytest.approx(judge_set(model, dataset, PROTOCOLS["kitti2015"]).scores, rel=1e-3, abs=1e-5)
