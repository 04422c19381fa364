"""MiDaS: a loss per dataset whatever the truth's scale and shift, and a bundle that says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel
from trainer_runs import read_curve, train_here, write_recipe

from depth_ros import bundle as bundles
from depth_ros.engines import load_engine
from depth_ros.types import CameraModel
from training import export
from training.batch import Batch, with_inverse
from training.checkpoint import load_method, save_checkpoint
from training.config import ConfigError, TrainConfig
from training.evaluate import describe_method
from training.methods import Ensemble, Method, SelfTeaching
from training.relative_losses import LOSSES

Build = Callable[..., Method]
SMALL = {"decoder": "midas_small"}


@pytest.fixture
def mixed(street_batch: Batch) -> Batch:
    """Four samples of two datasets, each true up to a scale and a shift of its own, without depth or views."""
    scale, shift = (torch.tensor(v)[:, None, None, None] for v in ((2.0, 0.3, 5.0, 40.0), (-1.0, 0.0, 7.0, 3.0)))
    inverse, dataset = scale / street_batch.depth + shift, torch.tensor([1, 0, 1, 1])
    return replace(street_batch, views=(), depth=None, inverse=inverse, dataset=dataset)


def one(batch: Batch, index: int) -> Batch:
    part = slice(index, index + 1)
    truth = {name: getattr(batch, name)[part] for name in ("image", "input", "K", "inverse", "valid", "dataset")}
    return replace(batch, **truth)


def test_the_sum_over_datasets_is_the_mean_over_samples_each_in_the_term_of_its_own(build: Build, mixed: Batch) -> None:
    method = build("midas", network=SMALL).eval()
    method.datasets = ("indoors", "outdoors", "absent")
    terms = method.losses(mixed)
    alone = [sum(method.losses(one(mixed, i)).values()).item() for i in range(4)]
    assert terms["indoors"].item() == pytest.approx(alone[1] / 4, rel=1e-4)
    assert terms["outdoors"].item() == pytest.approx((alone[0] + alone[2] + alone[3]) / 4, rel=1e-4)
    assert terms["absent"].item() == 0
    terms["absent"].backward()  # a term as any other, or processes would differ in what they have


@pytest.mark.parametrize("loss", [name for name in LOSSES if name not in ("silog", "ordinal")])
def test_the_truths_scale_and_shift_do_not_matter(build: Build, street_batch: Batch, mixed: Batch, loss: str) -> None:
    """Metric depth is inverse depth of a scale and a shift of its own; silog needs the shift, ordinal draws pairs."""
    method = build("midas", network=SMALL, midas={"loss": loss}).eval()
    metric, relative = method.losses(street_batch), method.losses(replace(mixed, dataset=torch.zeros(4)))
    assert list(metric) == ["relative"]
    torch.testing.assert_close(metric["relative"], relative["relative"], rtol=1e-3, atol=1e-6)


def test_depth_becomes_inverse_depth_where_there_is_none(street_batch: Batch, mixed: Batch) -> None:
    torch.testing.assert_close(with_inverse(street_batch).inverse * street_batch.depth, torch.ones(4, 1, 64, 192))
    assert with_inverse(street_batch).dataset.tolist() == [0, 0, 0, 0]
    assert with_inverse(mixed) is mixed
    bare = replace(street_batch, depth=None, valid=None)
    assert with_inverse(bare) is bare


def test_the_weights_of_the_configuration_weigh(build: Build, street_batch: Batch) -> None:
    def total(**midas: object) -> float:
        torch.manual_seed(0)
        return build("midas", network=SMALL, midas=midas).eval().losses(street_batch)["relative"].item()

    plain, half, whole = (total(gradient=weight) for weight in (0.0, 0.5, 1.0))
    assert whole - half == pytest.approx(half - plain, rel=1e-4)
    assert half > plain > total(gradient=0.0, trimmed=0.5) > 0
    assert total(gradient_scales=1) < half


def test_an_image_without_truth_teaches_nothing_and_is_counted(build: Build, mixed: Batch) -> None:
    method = build("midas", network=SMALL).eval()
    valid = mixed.valid.clone()
    valid[2] = False
    blind = replace(mixed, valid=valid)
    method.datasets = ("a", "b")
    alone = [sum(method.losses(one(blind, i)).values()).item() for i in range(4)]
    assert alone[2] == 0
    assert sum(method.losses(blind).values()).item() == pytest.approx(sum(alone) / 4, rel=1e-4)
    with torch.no_grad():
        figures = method.health(blind)
    assert figures["skipped"] == 0.25
    assert figures.keys() >= {"near", "far", "contrast", "correlation"}


@pytest.mark.parametrize(
    ("name", "sections", "message"),
    [
        ("midas", {"method": {"sigma": "log"}}, r"method.sigma is 'log', which learns the size of an error; .* flip or dropout"),
        ("midas", {"method": {"sigma": "samples"}}, r"only monodiffusion has"),
    ],
)
def test_choices_that_have_no_meaning_are_refused(build: Build, name: str, sections: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **sections)


def test_nothing_that_mixes_depths_takes_one_with_a_shift_of_its_own(build: Build, street_batch: Batch) -> None:
    method, student = build("midas"), build("self_teaching")
    assert isinstance(student, SelfTeaching)
    with pytest.raises(
        ConfigError,
        match=r"method.teachers: number 1, of method midas, is affine_invariant: .*fit_metric.* method.name: midas",
    ):
        student.set_teachers([method])
    with pytest.raises(ConfigError, match=r"checkpoints are affine_invariant: each has a scale and a shift"):
        Ensemble([method, build("midas")])
    with pytest.raises(ConfigError, match=r"partly affine_invariant, partly metric"):
        Ensemble([method, build("monodepth2")])
    with pytest.raises(ConfigError, match=r"method midas needs truth in every batch"):
        method.losses(replace(street_batch, depth=None, valid=None))


@pytest.mark.timeout(600)  # some seconds of one free core
def test_it_learns_the_order_and_shape_of_a_few_streets(build: Build, mixed: Batch) -> None:
    """From truths whose scales and shifts have nothing in common."""
    method = build("midas", network={**SMALL, "pretrained": "imagenet"}).train()
    method.datasets = ("a", "b")
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    with torch.no_grad():
        assert method.eval().health(mixed)["correlation"] < 0.7
    method.train()
    for _ in range(40):
        optimizer.zero_grad()
        sum(method.losses(mixed).values()).backward()
        optimizer.step()
    with torch.no_grad():
        assert method.eval().health(mixed)["correlation"] > 0.9


def test_a_run_in_16_bits_validates_by_its_own_figures(tmp_path: Path, street_video: Path) -> None:
    recipe = write_recipe(
        tmp_path,
        street_video,
        data={"source": "street", "street_samples": 4},
        method={"name": "midas"},
        network={"decoder": "midas_small"},
        run={"max_steps": 2, "validate_every": 2, "precision": "bf16-mixed"},
    )
    rows = read_curve(train_here(recipe))
    assert all(np.isfinite(float(row["train/relative"])) for row in rows)
    assert -1 <= float(rows[-1]["val/correlation"]) <= 1
    assert float(rows[-1]["val/skipped"]) == 0


@pytest.fixture
def checkpoint(tmp_path: Path, build: Build, tiny_encoder: None) -> Path:
    """A checkpoint as training.train leaves it."""
    method = build("midas", network={**SMALL, "encoder": "tiny"}).eval()
    save_checkpoint(tmp_path / "best.ckpt", {"average": AveragedModel(method, use_buffers=True)}, method.config, 12, 1.0)
    return tmp_path / "best.ckpt"


def test_the_bundle_says_that_depth_is_relative(checkpoint: Path, tmp_path: Path, street_batch: Batch) -> None:
    """The export compares the graph with torch; what the graph says is 1 / r, with sigma in its unit."""
    assert export.main([str(checkpoint), str(tmp_path / "mine")]) == 0
    bundle = bundles.load(tmp_path / "mine")
    assert bundle.kind == "affine_invariant"
    images = (street_batch.image[:2].permute(0, 2, 3, 1) * 255).round().to(torch.uint8).contiguous().numpy()
    depth, sigma = load_engine(bundle).infer(images)
    network = TrainConfig().network
    assert network.min_depth <= depth.min() < depth.max() <= network.max_depth
    assert (sigma > 0).all()


def test_sigma_in_metres_is_refused(
    checkpoint: Path, tmp_path: Path, street_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(checkpoint), str(tmp_path / "mine"), "--calibrate", str(street_set)]) == 1
    assert "kind is 'affine_invariant'; expected 'metric'" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_export_fits_metres_on_data_with_truth(
    checkpoint: Path, tmp_path: Path, camera: CameraModel, street_batch: Batch, write_set: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Scale, shift and residual that are stated are those of NumPy's least squares on every other image."""
    images = (street_batch.image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    with torch.no_grad():
        r = 1 / load_method(checkpoint).predict(images.permute(0, 3, 1, 2) / 255)[0][:, 0].double().numpy()
    scale = 0.2 / np.ptp(r)  # of truths between 1 / 0.25 and 1 / 0.05 m, but for the noise
    inverse = 0.05 + scale * (r - r.min()) + np.random.default_rng(1).normal(0, 0.002, r.shape)
    data = write_set(tmp_path / "set", camera, images.numpy(), 1 / inverse)
    capsys.readouterr()
    assert export.main([str(checkpoint), str(tmp_path / "mine"), "--fit-metric", str(data)]) == 0
    assert f"{tmp_path / 'mine'}: metres fitted on set" in capsys.readouterr().out
    made = bundles.load(tmp_path / "mine")
    found = [float(made.provenance[f"fit_{name}"]) for name in ("scale", "shift", "residual")]
    stored = 256 / np.round(256 / inverse)
    expected = np.polyfit(r[::2].ravel(), stored[::2].ravel(), 1)
    assert made.kind == "metric"
    assert found[:2] == pytest.approx(expected, rel=0.02)
    residual = np.quantile(np.abs(np.polyval(expected, r[::2]) - stored[::2]), 0.6827)
    assert found[2] == pytest.approx(residual, rel=0.03)
    depth, _ = load_engine(made).infer(images[1:2].numpy())
    true = 1 / (0.05 + scale * (r[1] - r.min()))
    assert np.median(np.abs(depth[0] - true) / true) < 0.01


def test_export_fits_sigma_once(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ["--calibrate", str(tmp_path), "--fit-metric", str(tmp_path)]
    assert export.main([str(checkpoint), str(tmp_path / "mine"), *both]) == 1
    assert "--calibrate and --fit-metric both fit sigma; expected one of them" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_kinds_are_those_of_the_bundle(build: Build) -> None:
    kinds = {
        "metric": build("monodepth2"),
        "scale_invariant": build("monodepth2", data={"known_poses": False}),
        "affine_invariant": build("midas"),
    }
    assert set(kinds) == set(bundles.KINDS)
    for kind, method in kinds.items():
        assert describe_method(method, "mine").kind == method.kind == kind
        assert method.metric is (kind == "metric")
