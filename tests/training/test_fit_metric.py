"""Metres of relative inverse depth: the one scale and shift of a set, whatever one of its images says, in the bundle's graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from depth_ros import bundle as bundles
from depth_ros.engines import load_engine
from depth_ros.estimator import Estimator
from depth_ros.types import CameraModel, Frame, InputError, UInt8Array
from training.calibration import weighted_quantile
from training.data.truth import open_evaluation_set
from training.evaluate import describe_method
from training.export import export, export_metric
from training.fit_metric import fit_alignment, fit_metric, main, report
from training.methods import Predictor

SCALE, SHIFT = 0.12, 0.02  # [1/m]
FOCAL = 40.0
W, H = 64, 32


class Relative(Predictor):
    """Relative inverse depth is the red channel, as 1 / r, with a relative sigma of 5 %."""

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth = 1 / image[:, :1].clamp(min=1e-4)
        return depth, 0.05 * depth


@pytest.fixture(scope="module")
def relative(tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Any]) -> bundles.ModelBundle:
    """Its bundle, for a camera of FOCAL."""
    method = Relative(make_config(data={"width": W, "height": H})).eval()
    method.focal.fill_(FOCAL)
    description = replace(describe_method(method, "relative"), kind="affine_invariant", min_depth=1e-3, max_depth=1e3)
    return export(method, tmp_path_factory.mktemp("models") / "relative", description)


def camera(focal: float = FOCAL) -> CameraModel:
    return CameraModel(W, H, focal, focal, W / 2, H / 2)


def pictures(count: int) -> UInt8Array:
    """Red between 26 and 255, in smooth waves that differ from picture to picture."""
    x = np.linspace(0, 2 * np.pi, W)[None] + np.linspace(0, 3, H)[:, None]
    waves = np.stack([0.55 + 0.45 * np.sin(x + k) for k in range(count)])
    return np.repeat((255 * waves).round().astype(np.uint8)[..., None], 3, axis=-1)


def metres(images: UInt8Array, scale: float = SCALE, shift: float = SHIFT, ratio: float = 1.0) -> Any:
    return ratio / (scale * images[..., 0] / 255.0 + shift)


def test_scale_and_shift_are_recovered_and_the_graph_gives_metres(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(6)
    data = write_set(tmp_path / "exact", camera(), images, metres(images))
    assert main([str(relative.path), str(tmp_path / "metric"), str(data)]) == 0
    assert "warning" not in capsys.readouterr().out
    bundle = bundles.load(tmp_path / "metric")
    assert bundle.kind == "metric"
    # Truth is stored to 1/256 m, which is 1e-5 of inverse depth at 8 m
    assert float(bundle.provenance["fit_scale"]) == pytest.approx(SCALE, abs=1e-4)
    assert float(bundle.provenance["fit_shift"]) == pytest.approx(SHIFT, abs=1e-4)
    assert bundle.metrics["images"] == 3
    assert bundle.metrics["abs_rel"] < 1e-3
    estimator = Estimator(bundle, load_engine(bundle))
    for focal in (FOCAL, 2 * FOCAL):
        (found,) = estimator.predict([Frame(images[0], camera(focal), 0, "camera")])
        expected = metres(images[0], ratio=focal / FOCAL)
        inside = expected < 0.99 * bundle.max_depth * focal / FOCAL
        assert inside.mean() > 0.9
        np.testing.assert_allclose(found.depth[inside], expected[inside], rtol=2e-3)


def test_export_fits_before_it_writes(
    tmp_path: Path, make_config: Callable[..., Any], write_set: Callable[..., Path], relative: bundles.ModelBundle
) -> None:
    images, method = pictures(4), Relative(make_config(data={"width": W, "height": H})).eval()
    data = write_set(tmp_path / "exact", camera(), images, metres(images))
    description = replace(relative, name="direct", provenance={"run": "mine"})
    made = export_metric(method, tmp_path / "direct", description, data)
    assert (made.kind, made.provenance["run"], made.provenance["fit_metric"]) == ("metric", "mine", "exact")
    assert float(made.provenance["fit_scale"]) == pytest.approx(SCALE, abs=1e-4)
    assert {path.name for path in tmp_path.iterdir()} == {"direct", "exact"}
    with pytest.raises(InputError, match=r"refused: kind is 'metric'; expected affine_invariant"):
        export_metric(method, tmp_path / "refused", replace(description, kind="metric"), tmp_path / "nowhere")


def test_a_camera_of_another_focal_length_fits_the_same(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path]
) -> None:
    """Through twice the focal length the same pictures are of things twice as far away."""
    images = pictures(4)
    data = write_set(tmp_path / "tele", camera(2 * FOCAL), images, metres(images, ratio=2.0))
    found = fit_alignment(relative, open_evaluation_set(data))
    assert (found.scale, found.shift) == pytest.approx((SCALE, SHIFT), abs=1e-4)
    assert found.scatter < 1e-3


def test_the_residual_is_the_noise_and_sigma_has_it(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path]
) -> None:
    rng, images, noise = np.random.default_rng(5), pictures(8), 0.004
    inverse = 1 / metres(images)
    data = write_set(tmp_path / "noisy", camera(), images, 1 / (inverse + noise * rng.standard_normal(inverse.shape)))
    bundle = fit_metric(relative, tmp_path / "metric", open_evaluation_set(data))
    assert float(bundle.provenance["fit_residual"]) == pytest.approx(noise, rel=0.1)
    assert bundle.metrics["coverage_1sigma"] == pytest.approx(0.6827, abs=0.05)
    depth, sigma = load_engine(bundle).infer(images[:1])
    expected = bundle.sigma_calibration * depth**2 * np.hypot(0.05 * SCALE * images[:1, ..., 0] / 255, noise)
    np.testing.assert_allclose(sigma, expected, rtol=0.05)


def test_one_image_of_another_scale_does_not_count(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path]
) -> None:
    images = pictures(7)
    truths = metres(images)
    truths[2] = metres(images[2], 3 * SCALE, 0.1)
    found = fit_alignment(relative, open_evaluation_set(write_set(tmp_path / "odd", camera(), images, truths)))
    assert (found.scale, found.shift) == pytest.approx((SCALE, SHIFT), abs=1e-3)
    assert found.scatter > 0.25  # and yet it is told


def test_a_scale_that_changes_from_image_to_image_is_warned_of(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path]
) -> None:
    images = pictures(8)
    factors = [1, 1, 2, 2] * 2  # of which every other one fits
    truths = np.stack([metres(image, SCALE * f, SHIFT * f) for image, f in zip(images, factors, strict=True)])
    bundle = fit_metric(relative, tmp_path / "metric", open_evaluation_set(write_set(tmp_path / "set", camera(), images, truths)))
    scatter = float(np.std(np.log([1, 2, 1, 2])))
    assert float(bundle.provenance["fit_scatter"]) == pytest.approx(scatter, rel=0.05)
    assert "warning: that is over 25%" in report(bundle)


def test_what_has_no_scale_and_shift_is_refused(
    tmp_path: Path, relative: bundles.ModelBundle, write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    images = pictures(4)
    turned = write_set(tmp_path / "turned", camera(), images, 1 / (0.15 - 0.1 * images[..., 0] / 255.0))
    assert main([str(relative.path), str(tmp_path / "made"), str(turned)]) == 1
    assert "expected a positive one: its output is no relative inverse depth" in capsys.readouterr().err
    exact = write_set(tmp_path / "exact", camera(), images, metres(images))
    assert main([str(relative.path), str(tmp_path / "metric"), str(exact)]) == 0
    assert main([str(tmp_path / "metric"), str(tmp_path / "made"), str(exact)]) == 1
    assert "kind is 'metric'; expected affine_invariant" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_weighted_quantile_by_hand() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])
    assert weighted_quantile(values, weights, 0.2) == 1.0
    assert weighted_quantile(values, weights, 0.5) == 2.0
    assert weighted_quantile(values, weights, 0.9) == 3.0
    assert math.isinf(weighted_quantile(np.array([1.0, np.inf]), np.array([1.0, 3.0]), 0.5))
