"""Export: what leaves torch is what was trained, with a sigma that fits held-out errors."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from depth_ros import bundle as bundles
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS
from depth_ros.estimator import Estimator
from depth_ros.graphs import prepare
from depth_ros.types import CameraModel, InputError
from training.checkpoint import load_method, save_checkpoint
from training.config import TrainConfig
from training.data.truth import open_evaluation_set
from training.evaluate import TorchEngine, describe_method, evaluate, open_estimator
from training.export import ExportError, calibrate_sigma, check_parity, difference, export, main, provenance
from training.methods import Method, Predictor

Build = Callable[..., Method]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Path:
    """A checkpoint as training.train leaves it, of a net that knows ImageNet only."""
    method = build("supervised", network={"pretrained": "imagenet"}).eval()
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    save_checkpoint(path, {"average": AveragedModel(method, use_buffers=True)}, method.config, 12, 1.0)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, street_set: Path) -> Path:
    """The bundle that the command line makes of it, with sigma calibrated."""
    folder = tmp_path_factory.mktemp("models") / "mine"
    arguments = [
        str(checkpoint),
        str(folder),
        "--calibrate",
        str(street_set),
        "--int8",
        str(street_set / "image"),
        "--trained-on",
        "nothing",
        "--licence",
        "Apache-2.0",
    ]
    assert main(arguments) == 0
    return folder


def test_exported_int8_graph_is_that_of_the_exported_graph(exported: Path, street_set: Path) -> None:
    made = bundles.load(exported)
    assert made.int8["calibrated_on"] == "image"
    assert made.int8["frames"] == 4
    assert 0 < made.int8["depth_median"] < 0.1
    assert len(prepare(made, "int8")) > 0  # signed in bundle.yaml


class Known(Predictor):
    """10 m with a sigma of 1 m, whatever it sees."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth = torch.full_like(image[:, :1], 10.0)
        return depth, self.sigma_calibration * torch.ones_like(depth)


class Unsure(Known):
    """A depth as it should be and no sigma."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth, sigma = super().predict(image)
        return depth, sigma * float("nan")


class HalfSky(Known):
    """10 m with a sigma of 1 m on the left; on the right, beyond what the bundle calls in range."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth, sigma = super().predict(image)
        right = torch.arange(depth.shape[-1]) >= depth.shape[-1] // 2
        return torch.where(right, 1000.0, depth), sigma


class Restless(Known):
    """Says something else each time, so that no graph can agree with it."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth, sigma = super().predict(image)
        return depth + torch.rand_like(depth), sigma


def test_the_bundle_says_where_it_comes_from(exported: Path, camera: CameraModel) -> None:
    bundle = bundles.load(exported)
    assert (bundle.name, bundle.width, bundle.height, bundle.kind) == ("mine", 192, 64, "metric")
    assert (bundle.fx, bundle.fy) == pytest.approx((camera.fx, camera.fy))
    assert (bundle.trained_on, bundle.licence) == ("nothing", "Apache-2.0")
    assert bundle.limits == DEFAULT_LIMITS
    assert bundle.provenance["step"] == "12"
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert bundle.provenance["commit"] == (commit.stdout.strip() or "unknown")
    assert bundle.graph_path.stat().st_size < 20e6
    assert b"export.py" not in bundle.graph_path.read_bytes()  # nor any other file of the machine that exported
    assert bundle.metrics["images"] == 4


def test_without_git_the_commit_is_unknown(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance([checkpoint])["commit"] == "unknown"


def test_the_configuration_has_a_name_that_changes_with_it(tmp_path: Path, build: Build) -> None:
    names = []
    for number, rate in enumerate((1e-3, 1e-3, 2e-3)):
        method = build("supervised", optim={"learning_rate": rate})
        path = tmp_path / f"{number}.ckpt"
        save_checkpoint(path, {"average": AveragedModel(method, use_buffers=True)}, method.config, number, 1.0)
        names.append(provenance([path])["config"])
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch(r"[0-9a-f]{12}", name) for name in names)


def test_calibrated_sigma_holds_on_the_half_that_was_not_used(exported: Path, street_set: Path) -> None:
    other = evaluate(open_estimator(exported), open_evaluation_set(street_set).every_second(1))
    assert other["coverage_1sigma"] == pytest.approx(bundles.load(exported).metrics["coverage_1sigma"], abs=0.01)
    used = evaluate(open_estimator(exported), open_evaluation_set(street_set).every_second(0))
    assert used["coverage_1sigma"] == pytest.approx(0.6827, abs=0.02)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_batch_of_any_size(exported: Path, count: int) -> None:
    engine = load_engine(bundles.load(exported), options=EngineOptions(threads=1))
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 192, 3), dtype=np.uint8)
    depth, sigma = engine.infer(images[:count])
    assert depth.shape == sigma.shape == (count, 64, 192)
    for index in range(count):
        alone = engine.infer(images[index : index + 1])
        assert depth[index] == pytest.approx(alone[0][0], rel=1e-4)
        assert sigma[index] == pytest.approx(alone[1][0], rel=1e-4)


def test_the_graph_agrees_with_torch_on_a_picture(exported: Path, checkpoint: Path, street_set: Path) -> None:
    method, bundle = load_method(checkpoint), bundles.load(exported)
    method.sigma_calibration.fill_(bundle.sigma_calibration)
    image = next(iter(open_evaluation_set(street_set))).frame.image[None]
    assert check_parity(method, bundle, image) < 1e-3
    for ours, theirs in zip(
        load_engine(bundle, options=EngineOptions(threads=1)).infer(image), TorchEngine(method).infer(image), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_graph_that_disagrees_is_refused(exported: Path, build: Build) -> None:
    other = build("supervised").eval()
    with pytest.raises(ExportError, match=r"mine: model.onnx differs from torch by .* relative; expected below 0.001"):
        check_parity(other, bundles.load(exported))


def test_a_sigma_below_a_hundredth_of_the_depth_is_compared_with_that() -> None:
    """Where an image and its mirror agree, flip's sigma is the rounding error of two depths, and its relative error anything."""
    depth = np.float32([[[10.0, 10.0]]])
    reference = depth, np.float32([[[2.0, 0.01]]])
    assert difference((depth, np.float32([[[2.0, 0.01006]]])), reference) == pytest.approx(6e-4, rel=1e-2)  # 60 um of 0.1 m
    assert difference((depth, np.float32([[[2.0, 0.0106]]])), reference) == pytest.approx(6e-3, rel=1e-2)
    assert difference((depth, np.float32([[[2.02, 0.01]]])), reference) == pytest.approx(1e-2, rel=1e-4)
    assert difference((np.float32([[[10.02, 10.0]]]), reference[1]), reference) == pytest.approx(2e-3, rel=1e-3)
    assert np.isnan(difference((depth, np.float32([[[np.nan, 0.01]]])), reference))
    found = (np.float32([[[10.001, 10.0]]]), np.float32([[[2.0, 0.01006]]]))
    larger = [(np.float32(d), 20 * np.float32(s)) for d, s in (found, reference)]  # sigma x 20, rounding errors and all
    assert difference(*larger, calibration=20.0) == pytest.approx(difference(found, reference), rel=1e-5)


@pytest.mark.parametrize("kind", [Restless, Unsure])
def test_a_graph_that_is_not_what_was_trained_leaves_no_bundle(tmp_path: Path, make_config, kind: type[Known]) -> None:
    method = kind(make_config()).eval()
    with pytest.raises(ExportError, match=r"mine: model.onnx differs from torch by"):
        export(method, tmp_path / "mine", describe_method(method, "mine"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_the_bundle_that_was_there(tmp_path: Path, make_config) -> None:
    folder, good, bad = tmp_path / "mine", Known(make_config()).eval(), Restless(make_config()).eval()
    bundle = export(good, folder, describe_method(good, "mine"))
    with pytest.raises(ExportError):
        export(bad, folder, describe_method(bad, "other"))
    assert bundles.load(folder) == bundle
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["bundle.yaml", "mine", "model.onnx"]
    bundle.int8_path.write_bytes(b"of the network before")
    again = export(good, folder, describe_method(good, "again"))
    assert not again.int8_path.exists()
    assert bundles.load(folder) == again
    assert again.name == "again"


def test_sigma_is_scaled_to_the_errors(tmp_path: Path, make_config, camera: CameraModel, write_set) -> None:
    """Errors of 3 m where the method says 1 m."""
    method, rng = Known(make_config()), np.random.default_rng(0)
    method.focal.copy_(torch.tensor([camera.fx, camera.fy]))
    truths = 10 + 3 * np.clip(rng.standard_normal((4, 64, 192)), -3, 3)
    folder = write_set(tmp_path / "set", camera, np.zeros((4, 64, 192, 3), np.uint8), truths)
    dataset = open_evaluation_set(folder)
    assert calibrate_sigma(method, dataset) == pytest.approx(3.0, rel=0.03)
    method.sigma_calibration.mul_(3.0)
    assert calibrate_sigma(method, dataset) == pytest.approx(1.0, rel=0.03)


def test_images_weigh_alike_in_the_calibration(tmp_path: Path, make_config, camera: CameraModel, write_set) -> None:
    """Errors of 2 m on two images with few measurements, 5 m on one with many: two of three images is 0.667 < 0.683."""
    method = Known(make_config())
    method.focal.copy_(torch.tensor([camera.fx, camera.fy]))
    truths = np.zeros((3, 64, 192))
    truths[:2, 40, 50:60], truths[2] = 12.0, 15.0
    folder = write_set(tmp_path / "set", camera, np.zeros((3, 64, 192, 3), np.uint8), truths)
    assert calibrate_sigma(method, open_evaluation_set(folder)) == pytest.approx(5.0, rel=1e-3)
    dataset = open_evaluation_set(write_set(tmp_path / "more", camera, np.zeros((4, 64, 192, 3), np.uint8), truths[[0, 1, 2, 0]]))
    assert calibrate_sigma(method, dataset) == pytest.approx(2.0, rel=1e-3)  # now three of four


@pytest.fixture
def half_sky(make_config, camera: CameraModel) -> HalfSky:
    method = HalfSky(make_config())
    method.focal.copy_(torch.tensor([camera.fx, camera.fy]))
    return method


@pytest.mark.parametrize("sky", [0, 20, 31])
def test_pixels_out_of_range_are_misses_in_the_calibration(
    tmp_path: Path, half_sky: HalfSky, camera: CameraModel, write_set, sky: int
) -> None:
    """Errors of 1/16, 2/16, ... m and `sky` misses, 100 pixels in all: 69 of them, at least 68.27 %, are within 69/16 m."""
    truth = np.zeros((1, 64, 192))
    rows, columns = np.divmod(np.arange(100 - sky), 50)
    truth[0, 40 + rows, 20 + columns] = 10 + (1 + np.arange(100 - sky)) / 16
    truth[0, 45, 120 : 120 + sky] = 12.0
    dataset = open_evaluation_set(write_set(tmp_path / "set", camera, np.zeros((1, 64, 192, 3), np.uint8), truth))
    found = calibrate_sigma(half_sky, dataset)
    assert found == pytest.approx(69 / 16, rel=1e-4)
    half_sky.sigma_calibration.mul_(found * (1 + 1e-6))
    scores = evaluate(Estimator(describe_method(half_sky, "half"), TorchEngine(half_sky)), dataset)
    assert scores["coverage_1sigma"] == pytest.approx(0.69)


def test_sigma_cannot_be_fitted_where_too_much_is_out_of_range(
    tmp_path: Path, half_sky: HalfSky, camera: CameraModel, write_set
) -> None:
    truth = np.zeros((1, 64, 192))
    truth[0, 40, 61:131] = 12.0  # 35 of 70 pixels
    dataset = open_evaluation_set(write_set(tmp_path / "set", camera, np.zeros((1, 64, 192, 3), np.uint8), truth))
    with pytest.raises(InputError, match="set: over 32% of the measured pixels are out of this model's range"):
        calibrate_sigma(half_sky, dataset)


def test_what_cannot_be_exported_is_one_line(
    tmp_path: Path, build: Build, checkpoint: Path, street_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unscaled = build("monodepth2", data={"known_poses": False})
    learned = tmp_path / "learned.ckpt"
    save_checkpoint(learned, {"average": AveragedModel(unscaled, use_buffers=True)}, unscaled.config, 1, 1.0)
    empty = Path(shutil.copytree(street_set, tmp_path / "empty"))
    for file in (empty / "depth").iterdir():
        file.rename(file.with_name(f"no_{file.name}"))
    for arguments, message in (
        ([tmp_path / "nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        ([checkpoint, "--calibrate", tmp_path], "meta.json"),
        ([checkpoint, "--calibrate", empty], "no image has truth to calibrate sigma with"),
        ([learned, "--calibrate", street_set], "kind is 'scale_invariant'; expected 'metric'"),
    ):
        assert main([str(arguments[0]), str(tmp_path / "mine"), *map(str, arguments[1:])]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]
    assert not (tmp_path / "mine").exists()


def test_a_graph_for_another_machine_needs_one_file_per_precision(exported: Path) -> None:
    assert sorted(file.name for file in exported.iterdir()) == ["bundle.yaml", "model.int8.onnx", "model.onnx"]
    assert set(yaml.safe_load((exported / "bundle.yaml").read_text())) == set(bundles.KEYS)
