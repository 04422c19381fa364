"""MonoDiffusion's method: what each term measures, who learns from it, and that the teacher stays as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainer_runs import assert_same_run, read_curve, train_here, write_recipe

from training.batch import Batch, View
from training.checkpoint import load_method, prepare_method, read_checkpoint
from training.config import ConfigError, load_config
from training.data.loading import build_sources, training_batches
from training.devices import open_fabric
from training.guards import StopRequest
from training.methods import Method, MonoDiffusion, Predictor, build_method
from training.methods.monodiffusion import hide
from training.schedules import build_optimizer
from training.train import Trainer

pytestmark = pytest.mark.usefixtures("tiny_encoder")

Build = Callable[..., Method]
TINY = {"data": {"width": 64, "height": 64}, "network": {"encoder": "tiny", "decoder": "monodepth2"}}
FOCAL = (90.0, 90.0)  # [px], of hand-made scenes
# A run of the trainer in which nothing is left to chance: no noise, no mask, no ties, no augmentation.
CERTAIN = (
    "diffusion.prediction=direct", "method.sigma=flip", "diffusion.mask_share=0", "method.auto_masking=false",
    "data.flip=false", "data.colour_jitter=0",
)  # fmt: skip


class Told(Predictor):
    """A teacher whose depth is what the picture holds: its first colour is a 100th of the depth [m]."""

    def depth_net(self, image: Tensor) -> list[Tensor]:
        return [image]

    def to_depth(self, colour: Tensor) -> Tensor:
        return 100 * colour


def kept_by(student: MonoDiffusion, teacher: Predictor, batch: Batch) -> Tensor:
    return student.kept(teacher, batch, student.poses(batch))


class Says(nn.Module):
    """In a teacher's depth net's place: the same logit everywhere, at three scales."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def pyramid(self, image: Tensor) -> list[Tensor]:
        return [torch.full_like(image[:, :1, : 64 >> scale, : 64 >> scale], self.logit) for scale in range(3)]


def student_of(build: Build, teacher: Method | None = None, **sections: Any) -> MonoDiffusion:
    """A small student, and its teacher: an untrained Monodepth2 with a light decoder, unless another is given."""
    merged = {name: TINY.get(name, {}) | sections.get(name, {}) for name in TINY.keys() | sections.keys()}
    student = build("monodiffusion", **merged)
    student.set_teachers([teacher or build("monodepth2", **(TINY | {"network": {"encoder": "tiny"}}))])
    for denoiser in student.depth_net.denoisers:
        nn.init.normal_(denoiser.body[-1].weight, std=0.2)  # what is predicted matters, as after training
    return student


@pytest.fixture
def batch(street_batch: Batch) -> Batch:
    """The left third of two streets, without truth."""
    views = tuple(
        replace(v, image=v.image[:2, ..., :64], input=v.input[:2, ..., :64], K=v.K[:2], source_T_target=v.source_T_target[:2])
        for v in street_batch.views
    )
    return Batch(street_batch.image[:2, ..., :64], street_batch.input[:2, ..., :64], street_batch.K[:2], views)


def pulled(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters())


# --- the terms


@pytest.mark.parametrize("scales", [3, 1])
def test_distillation_is_the_mean_distance_of_disparities_where_the_check_keeps_them(
    build: Build, batch: Batch, scales: int
) -> None:
    """The teacher sees the plain picture, the student the augmented one; what is not kept counts as no error."""
    diffusion = {"distillation": 0.7, "steps": [3, 4, 5][:scales], "train_steps": [150, 200, 250][:scales]}
    student = student_of(build, diffusion=diffusion).eval()
    batch = replace(batch, input=torch.rand_like(batch.input), views=batch.views[1:])  # ahead, where the borders are out of sight
    with torch.no_grad():
        value = student.losses(batch)["distillation"].item()
        own = [torch.sigmoid(m) for m in student.depth_net.pyramid(batch.input)]
        teacher = [torch.sigmoid(m) for m in student.teachers[0].depth_net.pyramid(batch.image)]
        kept = kept_by(student, student.teachers[0], batch)
    assert 0.05 < kept.float().mean() < 0.95
    errors = [((a - b).abs() * kept[..., :: 2**i, :: 2**i]).mean() for i, (a, b) in enumerate(zip(own, teacher, strict=False))]
    assert value == pytest.approx(0.7 * sum(errors).item() / scales, rel=1e-3)


@pytest.mark.parametrize(("prediction", "centre"), [("epsilon", 0.0), ("v", 0.0), ("v", -2.0)])
def test_the_denoisers_error_is_what_its_target_holds(build: Build, batch: Batch, prediction: str, centre: float) -> None:
    """Of a predictor that says 0: the mean square of noise is 1; of v at a share a it is a + (1 - a) x^2, steps equally often."""
    teacher = build("monodepth2", **(TINY | {"network": {"encoder": "tiny"}}))
    teacher.depth_net, logit = Says(-2.5), -2.5
    steps = {"prediction": prediction, "centre": centre, "denoising": 2.0, "filter": "none", "distillation": 0.0}
    student = student_of(build, teacher, diffusion=steps).eval()
    for denoiser in student.depth_net.denoisers:
        nn.init.zeros_(denoiser.body[-1].weight)
        nn.init.zeros_(denoiser.body[-1].bias)
    large = replace(batch, image=batch.image.repeat(8, 1, 1, 1), input=batch.input.repeat(8, 1, 1, 1), K=batch.K.repeat(8, 1, 1))
    large = replace(large, views=())
    with torch.no_grad():
        values = torch.stack([student.losses(large)["denoising"] for _ in range(4)])
    expected, spread = [], []
    for count in (150, 200, 250):
        shares = [math.prod(1 - (1e-4 + (0.02 - 1e-4) * s / (count - 1)) for s in range(t + 1)) for t in range(count)]
        squares = torch.tensor([1.0 if prediction == "epsilon" else a + (1 - a) * (logit - centre) ** 2 for a in shares])
        expected.append(squares.mean().item())
        spread.append(squares.std(correction=0).item())
    # Of 64 images at each of three scales, besides their noise, of 256 pixels and more.
    error = 2 * (math.hypot(*spread) / 3 / 8 + math.sqrt(2 / (64 * 256)))
    assert values.mean().item() == pytest.approx(2 * sum(expected) / 3, abs=4 * error)


def test_terms_and_their_weights(build: Build, batch: Batch) -> None:
    """All terms at weight 1; twice the weight is twice the term; and 0 leaves it out."""
    names = {"denoising", "distillation"}
    student = student_of(build).eval()
    torch.manual_seed(3)
    terms = student.losses(batch)
    assert terms.keys() == {"photometric", "smoothness"} | names
    for name in names:
        student.config = replace(student.config, diffusion=replace(student.config.diffusion, **{name: 2.0}))
        torch.manual_seed(3)
        assert student.losses(batch)[name].item() == pytest.approx(2 * terms[name].item(), rel=1e-5)
        student.config = replace(student.config, diffusion=replace(student.config.diffusion, **{name: 0.0}))
        assert name not in student.losses(batch)
    assert "denoising" not in student_of(build, diffusion={"prediction": "direct"}, method={"sigma": "flip"}).losses(batch)


@pytest.mark.parametrize("term", ["photometric", "distillation", "denoising"])
def test_every_term_teaches_the_encoder_and_all_denoisers_and_never_the_teacher(build: Build, batch: Batch, term: str) -> None:
    """Denoising too reaches the coarser denoisers' own samples, through the cue."""
    student = student_of(build, diffusion={"filter": "none"}).train()
    student.losses(batch)[term].backward()
    net = student.depth_net
    assert all(pulled(part) for part in (net.encoder, *net.denoisers, *net.cues))
    coarsest = net.denoisers[2].step.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert {200, 150, 100, 50, 0} <= set(coarsest)
    assert not pulled(student.teachers[0])


def test_a_teachers_shorter_lens_sees_the_scene_nearer(build: Build, batch: Batch) -> None:
    """Through twice the teacher's focal length, what it calls 8 m is 16 m away; what leaves the range stays within its end."""
    teacher = build("monodepth2", **TINY)
    for depth, expected in ((8.0, 16.0), (90.0, 100.0)):
        teacher.depth_net = Says(teacher.to_logit(torch.tensor(depth)).item())
        student = student_of(build, teacher)
        teacher.focal.copy_(student.focal / 2)
        for scale, logit in enumerate(student.teacher_logits(teacher, batch.image)):
            assert logit.shape == (2, 1, 64 >> scale, 64 >> scale)
            assert student.to_depth(logit).flatten().unique().tolist() == pytest.approx([expected], rel=1e-2)


# --- the masked pass


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("block", [1, 4])
def test_as_much_is_hidden_as_is_asked_for(block: int, share: float) -> None:
    """Within five standard errors of a binomial distribution over blocks."""
    ones = torch.ones(16, 3, 32, 48)
    hidden = 1 - hide([ones], share, block)[0]
    blocks = 16 * 32 * 48 / block**2
    assert hidden.mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / blocks))
    assert torch.equal(hidden[:, :, ::block, ::block].repeat_interleave(block, 2).repeat_interleave(block, 3), hidden)
    assert len(hidden.unique(dim=0)) == 16  # each image its own


@pytest.mark.parametrize("block", [1, 3, 4])
def test_the_same_is_hidden_at_every_level_in_all_channels(block: int) -> None:
    features = [torch.rand(4, width, 24 >> level, 40 >> level) + 1 for level, width in enumerate((5, 2, 7))]
    before = [f.clone() for f in features]
    masked = hide(features, 0.3, block)
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))  # what is given is not edited
    finest = masked[0][:, :1] == 0
    assert 0.1 < finest.float().mean() < 0.5
    for level, (feature, mask) in enumerate(zip(features, masked, strict=True)):
        hidden = finest[:, :, :: 2**level, :: 2**level].expand_as(feature)
        assert torch.equal(mask, torch.where(hidden, 0.0, feature))


def test_nothing_hidden_is_the_same_answer_and_something_is_not(build: Build, batch: Batch) -> None:
    for share, differs in ((0.0, False), (0.5, True)):
        student = student_of(build, diffusion={"mask_share": share, "masked": 0.4}).eval()
        with torch.no_grad():
            student.losses(batch)
            value = student.masked_losses(batch)["masked"].item()
        assert (value > 1e-5) is differs
        assert differs or value == 0


def test_the_masked_distance_is_to_the_first_passes_disparity_which_it_does_not_teach(build: Build, batch: Batch) -> None:
    """A weight that is doubled in between gives the distance of before and after, mean over scales."""
    student = student_of(build, diffusion={"mask_share": 0.0, "masked": 0.1}).eval()
    student.losses(batch)
    before = [torch.sigmoid(m).detach() for m in student.depth_net.pyramid(batch.input)]
    with torch.no_grad():
        student.depth_net.encoder.steps[0].weight.mul_(2)
    after = [torch.sigmoid(m) for m in student.depth_net.pyramid(batch.input)]
    expected = 0.1 * sum((a - b).abs().mean() for a, b in zip(after, before, strict=True)) / 3
    value = student.masked_losses(batch)["masked"]
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert value.item() > 1e-5
    parameters = [p for p in student.depth_net.parameters() if p.requires_grad]
    found, wanted = (torch.autograd.grad(v, parameters, allow_unused=True) for v in (value, expected))
    for a, b in zip(found, wanted, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, atol=1e-6)


def test_without_weight_there_is_no_masked_pass(build: Build) -> None:
    assert student_of(build).passes == ("losses", "masked_losses")
    assert student_of(build, diffusion={"masked": 0.0}).passes == ("losses",)


# --- the multi-view check


def scene(shift: float, moved: bool) -> tuple[Tensor, Tensor]:
    """Depth (1, 1, 64, 64) [m] of a wall at 20 m with a post at 10 m, and source_T_target of a view `shift` m farther on.

    The post is where it was, at 10 m - shift, or, if it `moved`, gone.
    """
    depth = torch.full((1, 1, 64, 64), 20.0 - shift)
    if not moved:
        depth[..., 20:30] = 10.0 - shift
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = -shift
    return depth, pose


def seen_from(*views: tuple[Tensor, Tensor]) -> Batch:
    """A batch whose pictures hold their depths; the target is scene(0)."""
    camera = torch.tensor([[[FOCAL[0], 0.0, 31.5], [0.0, FOCAL[1], 31.5], [0.0, 0.0, 1.0]]])

    def picture(depth: Tensor) -> Tensor:
        return (depth / 100).expand(-1, 3, -1, -1)

    target = picture(scene(0.0, moved=False)[0])
    return Batch(target, target, camera, tuple(View(picture(d), picture(d), camera, pose) for d, pose in views))


def told(build: Build, rule: str, **sections: Any) -> MonoDiffusion:
    student = student_of(build, diffusion={"filter": rule}, **sections)
    student.focal.copy_(torch.tensor(FOCAL))
    return student


POST = (slice(None), slice(None), slice(4, -4), slice(21, 29))
WALL = (slice(None), slice(None), slice(4, -4), slice(34, -4))


@pytest.mark.parametrize("rule", ["both", "depth", "strict"])
def test_a_pixel_counts_where_at_least_one_view_agrees(build: Build, rule: str) -> None:
    student = told(build, rule)
    teacher = Told(student.config)
    teacher.focal.copy_(student.focal)
    static, gone = scene(0.5, moved=False), scene(-0.5, moved=True)
    for views, post in (((static,), True), ((gone,), False), ((gone, static), True), ((gone, gone), False)):
        kept = kept_by(student, teacher, seen_from(*views))
        assert kept.dtype == torch.bool
        assert kept[WALL].all()
        assert kept[POST].all() if post else not kept[POST].any()


def test_where_nobody_is_asked_every_pixel_counts(build: Build) -> None:
    gone = scene(0.5, moved=True)
    unchecked, alone = told(build, "none"), told(build, "strict")
    assert kept_by(unchecked, Told(unchecked.config), seen_from(gone)).all()
    assert kept_by(alone, Told(alone.config), seen_from()).all()


def test_the_check_sees_metres_through_every_lens(build: Build) -> None:
    """Poses are in metres: a teacher of half the focal length says half the depth of the same picture, and so does a zoom."""
    student = told(build, "strict")
    teacher = Told(student.config)
    teacher.focal.copy_(student.focal / 2)
    static = scene(0.5, moved=False)
    batch = seen_from((static[0] / 2, static[1]))
    batch = replace(batch, image=batch.image / 2)
    assert kept_by(student, teacher, batch)[WALL].all()
    teacher.focal.copy_(student.focal)
    assert not kept_by(student, teacher, batch)[WALL].any()
    longer = batch.K * torch.tensor([2.0, 2.0, 1.0])[:, None]
    views = tuple(replace(view, K=longer) for view in batch.views)
    assert kept_by(student, teacher, replace(batch, K=longer, views=views))[:, :, 28:36, 40:50].all()


def test_the_check_uses_the_unit_of_the_poses(build: Build) -> None:
    """With a normalised disparity poses are learned in a unit in which the target's mean inverse depth is 1."""
    student = told(build, "strict", method={"normalise_disparity": True}, data=TINY["data"] | {"known_poses": False})
    teacher = Told(student.config)
    static, pose = scene(0.5, moved=False)
    unit = 1 / (1 / scene(0.0, moved=False)[0]).mean().item()
    pose[0, :3, 3] /= unit
    kept = kept_by(student, teacher, seen_from((static, pose)))
    assert kept[WALL].all()
    assert kept[POST].all()


def test_the_kept_share_is_logged(build: Build) -> None:
    student = told(build, "both").eval()
    teacher = build("monodepth2", **TINY).eval()
    student.set_teachers([teacher])
    batch = seen_from(scene(0.5, moved=False))
    with torch.no_grad():
        found = student.health(batch)["kept"].item()
        assert found == kept_by(student, teacher, batch).float().mean().item()
    assert 0 < found < 1


# --- training


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, street_video: Path) -> Path:
    """The checkpoint of a Lite-Mono, with BatchNorm and drop path, after a step of training."""
    recipe = write_recipe(tmp_path_factory.mktemp("teacher"), street_video)
    return train_here(recipe, "network.encoder=lite_mono_tiny", "run.max_steps=1") / "best.ckpt"


@pytest.fixture
def settings(teacher: Path) -> list[str]:
    """What makes a student of a small run."""
    return [
        "method.name=monodiffusion", f"method.teachers=[{teacher}]", "method.scales=3", "diffusion.steps=[2, 2, 2]",
        "network.encoder=tiny",
    ]  # fmt: skip


def open_trainer(recipe: Path, settings: list[str]) -> tuple[Trainer, MonoDiffusion]:
    config = load_config(recipe, settings)
    sources = build_sources(config.data, config.run.seed)
    torch.manual_seed(0)
    method = prepare_method(config, (sources.camera.fx, sources.camera.fy))
    assert isinstance(method, MonoDiffusion)
    return Trainer(config, open_fabric(config.run), method), method


def test_training_changes_the_student_and_nothing_of_the_teacher(tmp_path: Path, street_video: Path, settings: list[str]) -> None:
    """Weights, BatchNorm's statistics, and the mode in which drop path is off; through training, validation and averaging."""
    settings += ["network.encoder=lite_mono_tiny", "run.max_steps=2", "run.validate_every=1"]
    trainer, student = open_trainer(write_recipe(tmp_path, street_video), settings)
    teacher = student.teachers[0]
    before, own = deepcopy(teacher.state_dict()), deepcopy(student.state_dict())
    image = torch.rand(2, 3, 64, 64)
    answer = teacher.predict(image)[0]
    trainer.run(build_sources(trainer.config.data, 0), StopRequest())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None for p in teacher.parameters())
    assert torch.equal(teacher.predict(image)[0], answer)
    after = student.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, own[name])}
    assert same == {"focal", "sigma_calibration", "taught_metres"}
    assert any("running_mean" in name for name in after)
    stored = read_checkpoint(trainer.folder / "last.ckpt")["method"]
    assert stored.keys() == after.keys()
    assert not any("teacher" in name for name in stored)


def test_a_trained_student_opens_without_its_teacher_and_can_teach(
    tmp_path: Path, street_video: Path, settings: list[str], teacher: Path
) -> None:
    """Of one that takes several steps another learns to take one at each scale."""
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(teacher.read_bytes())
    settings.append("run.max_steps=1")
    run = train_here(write_recipe(tmp_path / "several", street_video), *settings, f"method.teachers=[{copy}]")
    copy.unlink()
    assert load_method(run / "best.ckpt").metric
    settings += [f"method.teachers=[{run / 'best.ckpt'}]", "diffusion.steps=[1, 1, 1]", "method.sigma=samples"]
    few = train_here(write_recipe(tmp_path / "one", street_video), *settings)
    assert float(read_curve(few)[0]["train/distillation"]) > 0


def test_the_masked_pass_has_a_step_of_its_own_in_which_the_pose_net_rests(
    tmp_path: Path, street_video: Path, settings: list[str]
) -> None:
    """AdamW counts the steps of each weight."""
    settings += ["data.known_poses=false", "method.velocity=0.1", "run.max_steps=2"]
    trainer, student = open_trainer(write_recipe(tmp_path, street_video), settings)
    trainer.run(build_sources(trainer.config.data, 0), StopRequest())
    steps = {name: int(trainer.optimizer.state[p]["step"]) for name, p in student.named_parameters()}
    assert {count for name, count in steps.items() if name.startswith("depth_net.")} == {4}
    assert {count for name, count in steps.items() if name.startswith("pose_net.")} == {2}
    row = read_curve(trainer.folder)[0]
    terms = {name: float(value) for name, value in row.items() if name.startswith("train/") and name != "train/loss"}
    assert terms.keys() >= {"train/photometric", "train/distillation", "train/denoising", "train/masked"}
    assert float(row["train/loss"]) == pytest.approx(sum(terms.values()), rel=1e-6)


def test_a_step_of_the_trainer_is_two_of_the_optimiser(tmp_path: Path, street_video: Path, settings: list[str]) -> None:
    """Against the loop written out: the losses' step, and then, at the new weights, the masked pass's."""
    settings += [*CERTAIN, "run.max_steps=1", "optim.clip_norm=.inf"]
    trainer, student = open_trainer(write_recipe(tmp_path, street_video), settings)
    config = trainer.config
    other = build_method(config)
    other.load_state_dict(student.state_dict())
    other.set_teachers([deepcopy(student.teachers[0])])
    batch = next(training_batches(build_sources(config.data, 0), config, 0))
    optimizer = build_optimizer(other.train(), config.optim)
    for group in optimizer.param_groups:
        group["lr"] /= 2  # the first of two steps of warm-up
    for losses in (other.losses, other.masked_losses):
        optimizer.zero_grad(set_to_none=True)
        sum(losses(batch).values()).backward()
        optimizer.step()
    before = deepcopy(student.state_dict())
    trainer.run(build_sources(config.data, 0), StopRequest())
    wanted = other.state_dict()
    for name, value in student.state_dict().items():
        assert torch.allclose(value, wanted[name], atol=1e-7), name
    assert sum(not torch.equal(value, before[name]) for name, value in wanted.items()) > 20


def test_a_run_that_goes_on_ends_where_an_uninterrupted_one_does(tmp_path: Path, street_video: Path, settings: list[str]) -> None:
    """To the last bit, with noise, random steps and masks, and two steps of the optimiser for each batch."""
    settings += ["optim.schedule=step", "run.validate_every=1"]
    whole = train_here(write_recipe(tmp_path / "whole", street_video), *settings, "run.max_steps=2")
    parts = write_recipe(tmp_path / "parts", street_video)
    for steps in (1, 2):
        run = train_here(parts, *settings, f"run.max_steps={steps}")
    assert_same_run(run, whole)
    assert {"train/denoising", "train/distillation", "train/masked", "val/kept"} <= read_curve(run)[-1].keys()


# --- what does not fit


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"method": {"teachers": []}}, r"method.teachers is empty; expected the checkpoints of trained teachers"),
        ({"method": {"sigma": "dropout"}}, r"method.sigma is 'dropout'; of monodiffusion expected flip, samples, or trajectory"),
        ({"method": {"sigma": "log"}}, r"method.sigma is 'log'; of monodiffusion expected flip"),
        (
            {"diffusion": {"prediction": "direct"}},
            r"method.sigma is 'trajectory'; .*flip alone with diffusion.prediction: direct",
        ),
        ({"diffusion": {"steps": [1, 4, 5]}}, r"method.sigma is 'trajectory'; .*where the finest scale takes several steps"),
        (
            {"diffusion": {"prediction": "direct"}, "method": {"sigma": "samples"}},
            r"method.sigma is 'samples'; .*flip alone with diffusion.prediction: direct",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(build: Build, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("monodiffusion", **(TINY | sections))


@pytest.mark.parametrize("sigma", ["samples", "trajectory"])
def test_other_methods_have_no_diffusion(build: Build, sigma: str) -> None:
    with pytest.raises(ConfigError, match=rf"method.sigma is '{sigma}', which only monodiffusion has; expected another"):
        build("monodepth2", method={"sigma": sigma})


def test_teachers_that_do_not_fit_are_refused(build: Build, batch: Batch) -> None:
    student = student_of(build)
    unscaled = build("monodepth2", data={"known_poses": False})
    with pytest.raises(ConfigError, match=r"the teacher's depth is true up to one factor, but the lengths between this run's"):
        student.set_teachers([unscaled])
    with pytest.raises(ConfigError, match=r"of several teachers one is not metric"):
        student.set_teachers([build("monodepth2"), unscaled])
    with pytest.raises(ConfigError, match=r"expected a checkpoint with a depth network"):
        student.set_teachers([Told(student.config)])
    learns = student_of(build, unscaled, data=TINY["data"] | {"known_poses": False})
    assert not learns.metric
    coarse = student_of(build, method={"sigma": "flip"}, diffusion={"steps": [2], "train_steps": [50]})
    with pytest.raises(ConfigError, match=r"a teacher has 1 of the 3 scales of diffusion.steps"):
        student_of(build, coarse).losses(batch)
