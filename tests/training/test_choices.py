"""What is chosen after training: an export or an evaluation takes other steps, samples or another sigma from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from depth_ros import bundle as bundles
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.engines.trt_build import build_plan
from depth_ros.graphs import prepare
from training import evaluate, export
from training.checkpoint import load_method, save_checkpoint
from training.config import ConfigError
from training.evaluate import TorchEngine
from training.methods import Method, build_method

Build = Callable[..., Method]
PARITY = 1e-4
ROUNDING = 1e-5  # [m] in depths of some metres: sigma is a difference of depths, which have seven digits
TO_NOISE = {"prediction": "v", "zero_terminal": True, "spacing": "trailing"}
FEW = ("diffusion.steps=[1,1,1]", "diffusion.spacing=trailing", "diffusion.samples=8", "method.sigma=samples")


@pytest.fixture
def student(request: pytest.FixtureRequest, tmp_path: Path, build: Build, tiny_encoder: None) -> tuple[Method, Path]:
    """An untrained MonoDiffusion, of the paper's diffusion or the parameter's, and its checkpoint as training.train leaves it."""
    diffusion = getattr(request, "param", {})
    sections = {"network": {"encoder": "tiny"}, "data": {"width": 96, "height": 32}, "diffusion": diffusion}
    sigma = "flip" if diffusion.get("prediction") == "direct" else ""  # the only one that the control has
    method = build("monodiffusion", method={"teachers": ["teacher.ckpt"], "sigma": sigma}, **sections).eval()
    path = tmp_path / "best.ckpt"
    save_checkpoint(path, {"average": AveragedModel(method, use_buffers=True)}, method.config, 12, 1.0)
    return method, path


def with_weights_of(method: Method, steps: Sequence[int], spacing: str, samples: int, sigma: str) -> Method:
    """A method built for these choices from the start, with the weights of another."""
    config = method.config
    diffusion = replace(config.diffusion, steps=tuple(steps), spacing=spacing, samples=samples)
    other = build_method(replace(config, diffusion=diffusion, method=replace(config.method, sigma=sigma)))
    other.load_state_dict(method.state_dict())
    assert isinstance(other, Method)
    return other.eval()


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 32, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("student", "changes", "meant"),
    [
        ({}, (), ((3, 4, 5), "leading", 4, "trajectory")),
        ({}, FEW, ((1, 1, 1), "trailing", 8, "samples")),
        (TO_NOISE, ("method.sigma=flip", "diffusion.steps=[2,1,3]"), ((2, 1, 3), "trailing", 4, "flip")),
    ],
    ids=["as trained", "few", "flip"],
    indirect=["student"],
)
def test_the_exported_graph_samples_as_chosen_and_always_alike(
    tmp_path: Path, student: tuple[Method, Path], changes: tuple[str, ...], meant: tuple[Sequence[int], str, int, str]
) -> None:
    """Against torch, built for these choices; bit for bit over runs and sessions; TensorRT-RTX, where installed, builds it."""
    method, checkpoint = student
    options = [part for change in changes for part in ("--set", change)]
    assert export.main([str(checkpoint), str(tmp_path / "mine"), *options]) == 0
    made, images = bundles.load(tmp_path / "mine"), pictures(2)
    assert made.provenance.get("set", "") == ", ".join(changes)
    first, second = (load_engine(made, options=EngineOptions(threads=1)) for _ in range(2))
    found = first.infer(images)
    depth, sigma = TorchEngine(with_weights_of(method, *meant)).infer(images)
    for answers in (found, load_engine(made, "openvino", EngineOptions(threads=1)).infer(images)):
        np.testing.assert_allclose(answers[0], depth, rtol=PARITY)
        np.testing.assert_allclose(answers[1], sigma, rtol=PARITY, atol=ROUNDING)
    assert all(np.ptp(value) > 0.1 * np.median(value) for value in found)  # no constant, which anything would agree with
    for again in (first.infer(images), second.infer(images)):
        assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    if changes:
        assert not np.allclose(found[0], TorchEngine(method).infer(images)[0], rtol=0.01)
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    assert len(build_plan(trt, prepare(made, "fp16"), EngineOptions())) > 1e4


def test_no_weight_is_touched(student: tuple[Method, Path]) -> None:
    method, checkpoint = student
    chosen = load_method(checkpoint, FEW)
    for (name, weight), (other, same) in zip(method.state_dict().items(), chosen.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(weight, same)
    assert chosen.config.diffusion.steps == (1, 1, 1)
    assert load_method(checkpoint).config == replace(method.config, network=replace(method.config.network, pretrained="none"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["diffusion.prediction=v"], "--set diffusion.prediction=v: training has decided it; of .* .method monodiffusion. "
         "may be chosen: method.sigma, diffusion.steps, diffusion.spacing, diffusion.samples"),
        ([FEW[0], FEW[3], "network.max_depth=50"], "--set network.max_depth=50: training has decided it"),
        (["diffusion.step=[1]"], "--set diffusion.step=.1.: diffusion: unknown key 'step'; did you mean 'steps'?"),
        (["diffusion.samples=0"], "--set diffusion.samples=0: diffusion.samples is 0; expected 1 or more"),
        (["diffusion.samples=8"], "samples=8: changes nothing of .*best.ckpt, because method.sigma is not samples"),
        (["samples=8"], "--set samples=8: expected section.key=value"),
        (["diffusion.steps=[5]"], "diffusion.steps is .5,. and diffusion.train_steps .150, 200, 250.; expected one of each"),
        (["diffusion.steps=[151,1,1]"], "no more steps than the schedule has"),
        (["diffusion.steps=[1,1,1]"], "method.sigma is 'trajectory'; of monodiffusion expected flip, samples, or trajectory"),
        (["method.sigma=log"], "method.sigma is 'log', but the network of .*best.ckpt was trained for 'trajectory'"),
        (["method.sigma=dropout"], "method.sigma is 'dropout', but the network of"),
        (["method.sigma=samplse"], "method.sigma is 'samplse'; expected one of flip, dropout, samples, trajectory"),
    ],
)  # fmt: skip
def test_what_training_has_decided_is_refused(student: tuple[Method, Path], changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_method(student[1], changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("student", [{"prediction": "direct"}], indirect=True)
@pytest.mark.parametrize("change", ["diffusion.steps=[1,1,1]", "diffusion.spacing=trailing", "diffusion.samples=8"])
def test_the_control_without_diffusion_has_no_steps_to_choose(student: tuple[Method, Path], change: str) -> None:
    with pytest.raises(ConfigError, match=r"changes nothing of .*best.ckpt, because it was trained without diffusion"):
        load_method(student[1], [change])


@pytest.mark.parametrize(
    ("trained", "chosen", "fits"),
    [
        ("flip", "flip", True),
        ("log", "log", True),
        ("dropout", "dropout", True),
        ("dropout", "flip", False),
        ("flip", "dropout", False),  # never saw a channel missing
        ("flip", "log", False),
        ("log", "flip", False),
        ("repr", "log", False),  # as many maps, of something else
        ("", "flip", True),
        ("", "log", False),
    ],
)
def test_any_method_takes_another_sigma_where_nothing_has_to_be_learned(
    tmp_path: Path, build: Build, tiny_encoder: None, trained: str, chosen: str, fits: bool
) -> None:
    method = build("monodepth2", method={"sigma": trained}, network={"encoder": "tiny"}).eval()
    path = tmp_path / "best.ckpt"
    save_checkpoint(path, {"average": AveragedModel(method, use_buffers=True)}, method.config, 12, 1.0)
    if not fits:
        with pytest.raises(
            ConfigError, match=f"method.sigma is '{chosen}', but the network of .* trained for '{trained or 'flip'}'"
        ):
            load_method(path, [f"method.sigma={chosen}"])
        return
    assert load_method(path, [f"method.sigma={chosen}"]).config.method.sigma == chosen
    with pytest.raises(ConfigError, match=r"method monodepth2\) may be chosen: method.sigma$"):
        load_method(path, ["diffusion.samples=8"])


def test_the_evaluation_judges_a_choice_beside_the_model_as_trained(
    tmp_path: Path, student: tuple[Method, Path], street_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, options = str(student[1]), [part for change in FEW for part in ("--set", change)]
    names = [f"{checkpoint} ({', '.join(FEW)})", checkpoint]
    candidates = evaluate.open_candidates(evaluate.parse([names[1], str(street_set), *options, "--also", checkpoint]))
    assert list(candidates) == names
    configs = [model.estimator.engine.method.config for model in candidates.values()]
    assert [config.diffusion.steps for config in configs] == [(1, 1, 1), (3, 4, 5)]
    assert evaluate.main(["-", str(street_set), *options]) == 1
    assert "error: --set diffusion.steps=[1,1,1]: chooses for MODEL, which is -" in capsys.readouterr().err


def test_a_bundle_has_made_its_choices(make_bundle: Callable[..., bundles.ModelBundle]) -> None:
    with pytest.raises(
        ConfigError, match=r"--set method.sigma=flip: .* is a bundle, made with its choices; expected a checkpoint"
    ):
        evaluate.open_model(make_bundle().path, ["method.sigma=flip"])
