"""FeatDepth's method: who learns from which term, what is masked, and how its FeatureNet and its refinement are kept apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch, View
from training.checkpoint import load_method, save_checkpoint
from training.config import ConfigError, NetworkConfig
from training.evaluate import describe_method, open_model
from training.export import main as export_main
from training.methods import FeatDepth, FeatureNetAlone, Method
from training.methods.featdepth import feature_net_losses
from training.networks import build_encoder
from training.networks.feature_net import FeatureNet
from training.train import main

pytestmark = pytest.mark.usefixtures("tiny_encoder")

Build = Callable[..., Method]
TINY = {"encoder": "tiny", "decoder": "chained_pooling"}


class Identity(nn.Module):
    """In an encoder's place: the image is its own feature, at every level."""

    channels = (3, 3, 3, 3, 3)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [image] * 5


class Forced(nn.Module):
    """In the depth net's place: logits for a constant depth of 10 m between 1 and 100 m."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        disparity = torch.full_like(batch.image[:, :1], (1 / 10 - 1 / 100) / (1 - 1 / 100))
        self.logits = nn.Parameter(torch.logit(disparity))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.logits]


def pulls(net: nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in net.parameters() if p.grad is not None)


def keep(method: nn.Module, path: Path) -> Path:
    average = torch.optim.swa_utils.AveragedModel(method, use_buffers=True)
    save_checkpoint(path, {"average": average}, method.config, step=1, best=1.0)
    return path


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
@pytest.mark.parametrize("level", [0, 1])
def test_features_lie_above_the_pixels_that_the_loss_takes_their_depth_from(name: str, level: int) -> None:
    """What a feature sees is centred at its index times the stride."""
    encoder, stride = build_encoder(NetworkConfig(encoder=name, pretrained="none"), images=1).eval(), 2 ** (level + 1)
    image = torch.rand(1, 3, 96, 96, requires_grad=True)
    index = 48 // stride
    encoder(image)[level][0, :, index, index].sum().backward()
    for axis in (0, 1):
        seen = image.grad[0].abs().sum(dim=0).sum(dim=axis).nonzero().flatten()
        assert (seen.min() + seen.max()).item() / 2 == index * stride


def test_the_feature_net_gives_images_and_features_of_each_view(build: Build) -> None:
    net = build("feature_net", network=TINY).feature_net.eval()
    images = [torch.rand(2, 3, 64, 96) for _ in range(3)]
    features = net.features(images)
    assert [len(levels) for levels in features] == [5] * 3
    assert [tuple(f.shape[2:]) for f in features[0]] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]
    torch.testing.assert_close(features[2][0], net.encoder(images[2])[0])
    maps = net.decoder(features[0][-1])
    assert [tuple(m.shape) for m in maps] == [(2, 3, 64 // s, 96 // s) for s in (1, 2, 4, 8)]
    assert all(0 <= m.min() <= m.max() <= 1 for m in maps)


def test_lite_mono_has_no_features_at_half_the_size(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"FeatureNet's encoder is 'lite_mono'.*expected feature.encoder to be a ResNet"):
        build("feature_net", network={"encoder": "lite_mono"})
    assert build("featdepth", network={"encoder": "lite_mono"}, feature={"encoder": "tiny"}).feature_net is not None


@pytest.mark.parametrize("detach", [False, True])
def test_trained_jointly_the_feature_metric_error_teaches_depth_and_features(
    build: Build, street_batch: Batch, detach: bool
) -> None:
    method = build("featdepth", network=TINY, feature={"detach": detach}).train()
    terms = method.losses(street_batch)
    assert {"photometric", "smoothness", "feature", "reconstruction", "discriminative", "convergent"} < terms.keys()
    terms["feature"].backward()
    assert pulls(method.depth_net) > 0
    assert (pulls(method.feature_net) > 0) is not detach


def test_with_poses_unknown_the_feature_metric_error_teaches_them(build: Build, street_batch: Batch) -> None:
    views = tuple(replace(v, source_T_target=None, order=order) for v, order in zip(street_batch.views, (-1, 1), strict=True))
    method = build("featdepth", network=TINY, data={"known_poses": False}).train()
    method.losses(replace(street_batch, views=views, depth=None, valid=None))["feature"].backward()
    assert min(float(p.grad.abs().sum()) for p in method.pose_net.decoder[-1].parameters()) > 0


def test_what_the_views_do_not_show_still_teaches_the_auto_encoder(build: Build, street_batch: Batch) -> None:
    method = build("featdepth", network=TINY)
    terms = method.losses(replace(street_batch, views=()))
    assert "feature" not in terms
    terms["reconstruction"].backward()
    assert pulls(method.feature_net.decoder) > 0
    assert pulls(method.depth_net) == 0


def test_a_frozen_feature_net_is_no_part_of_the_student(tmp_path: Path, build: Build, street_batch: Batch) -> None:
    teacher = build("feature_net", network=TINY)
    path = keep(teacher, tmp_path / "best.ckpt")
    method = build("featdepth", network=TINY, feature={"checkpoint": str(path)}).train()
    method.prepare(load_method)
    assert not [name for name in method.state_dict() if name.startswith(("feature_net", "frozen"))]
    terms = method.losses(street_batch)
    assert "reconstruction" not in terms
    terms["feature"].backward()
    assert pulls(method.depth_net) > 0
    pairs = zip(method.frozen[0].parameters(), teacher.feature_net.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.grad is None for a, b in pairs)


def test_a_checkpoint_without_a_feature_net_is_refused(tmp_path: Path, build: Build) -> None:
    path = keep(build("supervised", network=TINY), tmp_path / "best.ckpt")
    method = build("featdepth", network=TINY, feature={"checkpoint": str(path)})
    with pytest.raises(ConfigError, match=r"feature.checkpoint: .* is of method supervised; expected one of feature_net"):
        method.prepare(load_method)


def test_a_camera_that_stands_still_is_masked_for_pixels_but_not_for_features(build: Build, street_batch: Batch) -> None:
    views = tuple(replace(v, image=street_batch.image) for v in street_batch.views)
    still = replace(street_batch, views=views)
    shares = {}
    for term in ("photometric", "feature"):
        method = build("featdepth", network=TINY, method={"scales": 1}, feature={"weight": 1.0, "checkpoint": "none.ckpt"})
        method.frozen, method.depth_net = [FeatureNet(Identity())], Forced(still)
        method.losses(still)[term].backward()
        shares[term] = float((method.depth_net.logits.grad.abs() > 1e-9).float().mean())
    assert shares["photometric"] < 0.02
    assert shares["feature"] > 0.5


def pair(batch: Batch) -> Batch:
    """The frame before, said to be the other camera of a pair, with nothing that moved."""
    view = replace(batch.views[0], image=batch.image, order=0)
    return replace(batch, views=(view,))


@pytest.mark.parametrize("kept", [True, False])
def test_auto_masking_may_end_where_a_pair_begins(build: Build, street_batch: Batch, kept: bool) -> None:
    method = build("featdepth", network=TINY, method={"scales": 1, "auto_mask_stereo": kept})
    method.depth_net = Forced(street_batch)
    method.losses(pair(street_batch))["photometric"].backward()
    share = float((method.depth_net.logits.grad.abs() > 1e-9).float().mean())
    assert share < 0.02 if kept else share > 0.5


def test_without_its_mean_the_smoothness_of_a_pair_has_a_unit(build: Build, street_batch: Batch) -> None:
    """Halved disparity is half as rough, unless it is divided by its mean."""
    batch, depth = pair(street_batch), 5 + torch.rand(4, 1, 64, 192)
    ratios = []
    for divided in (True, False):
        method = build("monodepth2", network=TINY, method={"smoothness_stereo_mean": divided})
        ratios.append((method._smoothness(batch, [2 * depth]) / method._smoothness(batch, [depth])).item())
    assert ratios == pytest.approx([1.0, 0.5], rel=1e-4)


def test_each_pixel_takes_the_view_that_fits_its_feature(build: Build, street_batch: Batch) -> None:
    """Two views under the identity pose, one right on the left half and one on the right half: together they fit everywhere."""
    target = torch.rand(4, 8, 32, 96)
    left, right = target.clone(), target.clone()
    left[..., 48:], right[..., :48] = target[..., 48:] + 1, target[..., :48] + 1
    still = torch.eye(4).expand(4, 4, 4)
    views: tuple[View, ...] = tuple(replace(v, source_T_target=still) for v in street_batch.views)
    method, depth = build("featdepth", network=TINY), torch.full((4, 1, 64, 192), 7.0)
    error = method._feature_metric(replace(street_batch, views=views), depth, [still] * 2, [target], [[left], [right]])
    assert error.item() == pytest.approx(0.0, abs=1e-3)


def test_the_auto_encoder_learns_to_give_an_image_back(build: Build) -> None:
    """Left half dark, right half bright: a uniform grey errs by 0.4."""
    method = build("feature_net", network=TINY)
    image = torch.cat([torch.full((1, 3, 64, 32), 0.1), torch.full((1, 3, 64, 32), 0.9)], dim=3)
    optimizer = torch.optim.Adam(method.parameters(), lr=2e-3)
    for _ in range(20):
        (features,) = method.feature_net.features([image])
        terms = feature_net_losses(method.feature_net, features, image, method.config.feature, charbonnier=False)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
    assert terms["reconstruction"] < 0.2


def test_a_feature_net_is_no_model(tmp_path: Path, build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    path = keep(build("feature_net", network=TINY), tmp_path / "best.ckpt")
    assert isinstance(load_method(path), FeatureNetAlone)
    assert export_main([str(path), str(tmp_path / "bundle")]) == 1
    assert "method feature_net predicts no depth; expected a checkpoint of monodepth2" in capsys.readouterr().err
    assert export_main([str(path), str(path), str(tmp_path / "bundle")]) == 1
    assert "an ensemble's checkpoint is of method feature_net, which predicts no depth" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="method feature_net predicts no depth; expected a checkpoint of monodepth2"):
        open_model(path)
    with pytest.raises(ConfigError, match="method feature_net predicts no depth; give its checkpoint to config/train/featdepth"):
        load_method(path).predict(torch.rand(1, 3, 64, 64))  # as a teacher's, which no bundle describes


def run(folder: Path, video: Path, *overrides: str) -> int:
    """Two steps of FeatDepth on a recorded street."""
    settings = (
        f"data.root={video}", "data.images=image", "data.calibration=camera.yaml", "data.poses=poses.txt",
        "data.train_frames=[0, 6]", "data.val_frames=[6, 9]", "data.width=64", "data.height=64", "data.workers=0",
        "method.name=featdepth", "network.encoder=tiny", "network.pretrained=none", "network.decoder=chained_pooling",
        "method.sigma=log", "optim.batch_size=2", "run.max_steps=2", "run.accelerator=cpu", f"run.dir={folder}", *overrides,
    )  # fmt: skip
    folder.parent.mkdir(exist_ok=True)
    recipe = folder.parent / "recipe.yaml"
    recipe.write_text("{}")
    return main([str(recipe), *(word for setting in settings for word in ("--set", setting))])


def test_online_refinement_goes_on_and_says_so(tmp_path: Path, street_video: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offline, refined = tmp_path / "offline", tmp_path / "refined"
    assert run(offline, street_video) == 0
    assert run(refined, street_video, f"run.refine={offline}/last.ckpt", "optim.learning_rate=1e-12") == 0
    before, after = (load_method(folder / "last.ckpt") for folder in (offline, refined))
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert isinstance(after, FeatDepth)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
    assert (before.refined, after.refined) == (False, True)

    assert export_main([str(refined / "last.ckpt"), str(tmp_path / "bundle")]) == 0
    for path in (refined / "last.ckpt", tmp_path / "bundle"):
        assert open_model(path).estimator.bundle.provenance["mode"] == "online refinement"
    assert "mode" not in describe_method(before, "offline").provenance

    capsys.readouterr()
    for start in ("run.init={}", "feature.checkpoint={}", "method.teachers=[{}]"):
        name = "self_teaching" if "teachers" in start else "featdepth"
        assert run(tmp_path / "third", street_video, f"method.name={name}", start.format(refined / "last.ckpt")) == 1
        assert "was refined online, and what starts from it would be too" in capsys.readouterr().err
    assert run(tmp_path / "fourth", street_video, f"run.refine={offline}/last.ckpt", "network.decoder=light") == 1
    assert "has other networks than this run" in capsys.readouterr().err
