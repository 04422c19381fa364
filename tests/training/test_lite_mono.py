"""Lite-Mono against its published sizes and costs and its equations written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from training.batch import Batch
from training.config import ConfigError, NetworkConfig
from training.methods import Method
from training.networks import DepthNet, build_encoder, build_pose_net
from training.networks.depth_decoder import PASSES
from training.networks.lite_mono import (
    DROP_PATH,
    HEADS,
    VARIANTS,
    AttentionBlock,
    ChannelAttention,
    DilatedBlock,
    DropPath,
    PositionEncoding,
)

Build = Callable[..., Method]
BASE = NetworkConfig(encoder="lite_mono", pretrained="none")
# Of the published code: 10^6 parameters of encoder and decoder, 10^9 multiply-adds of an image of 640x192 and of 1024x320.
PUBLISHED = {
    "lite_mono_tiny": (2.148, 2.83, 7.54),
    "lite_mono_small": (2.477, 4.73, 12.61),
    "lite_mono": (3.075, 5.01, 13.37),
    "lite_mono_8m": (8.776, 11.20, 29.86),
}
SHORT, LONG = (1, 2, 3), (1, 2, 5)
NARROW = [SHORT, SHORT, (*SHORT, *SHORT, 2, 4, 6)]  # dilations of the stages
WIDE = [LONG, LONG, (*LONG, *LONG, 2, 4, 10)]
FEW_NARROW, FEW_WIDE = [SHORT, SHORT, (*SHORT, 2, 4, 6)], [LONG, LONG, (*LONG, 2, 4, 10)]
DILATIONS = {
    "lite_mono_tiny": (FEW_NARROW, FEW_WIDE),
    "lite_mono_small": (FEW_NARROW, FEW_WIDE),
    "lite_mono": (NARROW, WIDE),
    "lite_mono_8m": (NARROW, NARROW),
}


def network(name: str, outputs: int = 1) -> DepthNet:
    return DepthNet(NetworkConfig(encoder=name, pretrained="none"), outputs)


def dilations(encoder: nn.Module) -> list[tuple[int, ...]]:
    """Of the depthwise convolutions, stage by stage."""
    return [
        tuple(m.dilation[0] for m in stage.modules() if isinstance(m, nn.Conv2d) and m.groups > 1) for stage in encoder.stages
    ]


def multiply_adds(net: nn.Module, image: Tensor) -> int:
    """Of convolutions, linear layers and products of attention, from the shapes that pass through; on no device, so at once."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, ChannelAttention):  # of each head's channels with each other, and of those weights with the values
            _, pixels, channels = output.shape
            total += 2 * pixels * channels * channels // HEADS
        else:
            total += output.numel() // output.shape[0] * module.weight[0].numel()

    counted = nn.Conv2d | nn.Linear | ChannelAttention
    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, counted)]
    net(image)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_and_costs_are_the_published_ones(name: str) -> None:
    """To the last stated digit."""
    with torch.device("meta"):
        net = network(name).eval()
        parameters, *costs = PUBLISHED[name]
        blocks = [m for m in net.modules() if isinstance(m, DilatedBlock)]
        unused = sum(2 * block.scale.numel() for block in blocks)  # the code's blocks hold a LayerNorm that they never apply
        assert round((sum(p.numel() for p in net.parameters()) + unused) / 1e6, 3) == parameters
        for cost, (width, height) in zip(costs, ((640, 192), (1024, 320)), strict=True):
            assert round(multiply_adds(net, torch.zeros(1, 3, height, width)) / 1e9, 2) == cost


def test_features_and_maps_have_their_strides() -> None:
    net = network("lite_mono", outputs=2).eval()
    image = torch.rand(1, 3, 64, 96)
    features = net.encoder(image)
    assert [tuple(f.shape[1:]) for f in features] == [(48, 16, 24), (80, 8, 12), (128, 4, 6)]
    maps = net.decoder(features)
    assert {scale: tuple(m.shape[1:]) for scale, m in maps.items()} == {0: (2, 32, 48), 1: (2, 16, 24), 2: (2, 8, 12)}
    assert [tuple(m.shape) for m in net(image)] == [(1, 2, 64, 96)] * 3


@pytest.mark.parametrize("name", VARIANTS)
def test_dilations_follow_the_width_of_the_images(build: Build, name: str) -> None:
    """The paper's at its two sizes; between and below, those of the narrower one. All of a run's encoders agree."""
    narrow, wide = DILATIONS[name]
    sizes = {(192, 64): narrow, (320, 96): narrow, (416, 128): narrow, (640, 192): narrow, (960, 320): narrow, (1024, 320): wide}
    for (width, height), expected in sizes.items():
        size = {"width": width, "height": height, "known_poses": False}
        method = build("monodepth2", data=size, network={"encoder": name})
        assert dilations(method.depth_net.encoder) == expected
        assert dilations(method.pose_net.encoder) == expected
    student = build("monodiffusion", data=size, network={"encoder": name}, method={"teachers": ("not opened here",)})
    assert dilations(student.depth_net.encoder) == wide


def test_positions_are_sines_and_cosines_of_row_then_column() -> None:
    encoding = PositionEncoding(64)
    nn.init.dirac_(encoding.mix.weight)  # let the waves through as they are
    nn.init.zeros_(encoding.mix.bias)
    waves = encoding(torch.zeros(2, 64, 3, 5))[0]
    for channel, size, along in ((0, 3, "row"), (7, 3, "row"), (31, 3, "row"), (32, 5, "column"), (45, 5, "column")):
        pair = channel % 32 // 2
        wave = (math.sin, math.cos)[channel % 2]
        for position in range(size):
            expected = wave((position + 1) / size * 2 * math.pi / 10000 ** (2 * pair / 32))
            line = waves[channel, position, :] if along == "row" else waves[channel, :, position]
            assert line.tolist() == pytest.approx([expected] * len(line), abs=1e-5)


def test_channel_attention_is_its_equation_written_out() -> None:
    """softmax over channels of cosine similarity times the head's temperature, then a mix of values, token by token."""
    attention, tokens = ChannelAttention(16), torch.randn(1, 7, 16)
    nn.init.uniform_(attention.temperature, 0.5, 2.0)
    q, k, v = (attention.qkv(tokens)[0, :, 16 * i : 16 * (i + 1)] for i in range(3))
    mixed = torch.zeros(7, 16)
    for head in range(HEADS):
        own = range(2 * head, 2 * head + 2)
        for a in own:
            scores = torch.stack([torch.cosine_similarity(q[:, a], k[:, b], dim=0) for b in own])
            weights = (scores * attention.temperature[head, 0, 0]).softmax(dim=0)
            mixed[:, a] = sum(w * v[:, b] for w, b in zip(weights, own, strict=True))
    assert torch.allclose(attention(tokens)[0], attention.project(mixed), atol=1e-5)


def test_the_shortcut_of_the_attention_block_starts_before_the_attention() -> None:
    block, x = AttentionBlock(16, position=True, drop=0.0), torch.randn(1, 16, 4, 6)
    nn.init.ones_(block.attention_scale)
    nn.init.zeros_(block.scale)
    assert torch.equal(block(x), x)
    nn.init.ones_(block.scale)
    assert not torch.allclose(block(x), x, atol=0.1)


def test_a_dilated_block_looks_as_far_as_its_dilation() -> None:
    block = DilatedBlock(8, dilation=3, drop=0.0).eval()
    nn.init.ones_(block.scale)
    x = torch.zeros(1, 8, 15, 15, requires_grad=True)
    block(x)[0, :, 7, 7].sum().backward()
    seen = {(int(row), int(column)) for row, column in x.grad[0].abs().sum(0).nonzero()}
    assert seen == {(row, column) for row in (4, 7, 10) for column in (4, 7, 10)}


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    drop, ones = DropPath(0.2), torch.ones(4000, 2, 3)
    dropped = drop.train()(ones)
    assert (dropped == dropped[:, :1, :1]).all()
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.03)
    assert torch.equal(drop.eval()(ones), ones)
    rates = [m.rate for m in network("lite_mono").modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([DROP_PATH * i / 17 for i in range(18)])


def test_every_parameter_learns() -> None:
    net = network("lite_mono_tiny", outputs=2).train()
    sum(m.square().mean() for m in net(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_an_image_does_not_change_its_neighbours_answer() -> None:
    net, images = network("lite_mono_tiny").eval(), torch.rand(3, 3, 64, 64)
    for block in (m for m in net.modules() if hasattr(m, "scale")):
        nn.init.ones_(block.scale)  # the blocks count, as after training
    with torch.no_grad():
        assert torch.allclose(net(images)[0][1:2], net(images[1:2])[0], atol=1e-4)


def test_dropout_passes_differ_and_repeat() -> None:
    net = DepthNet(BASE, outputs=1, dropout=True).eval()
    with torch.no_grad():
        passes = net.passes(torch.rand(1, 3, 32, 32))
        assert passes.shape == (1, PASSES, 1, 32, 32)
    assert all(not torch.allclose(passes[:, i], passes[:, j]) for i in range(PASSES) for j in range(i))


def test_it_can_also_be_the_encoder_of_the_pose_net() -> None:
    assert build_pose_net(BASE)(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)).shape == (1, 4, 4)


@pytest.mark.parametrize("decoder", ["midas", "midas_small"])
def test_its_features_go_into_midas_decoder(decoder: str) -> None:
    """One map of the image's size, which all stages learn from, also in passes that drop channels."""
    net = DepthNet(replace(BASE, encoder="lite_mono_tiny", decoder=decoder), outputs=2, dropout=True, width=96)
    image = torch.rand(1, 3, 64, 96)
    (finest,) = net(image)
    assert finest.shape == (1, 2, 64, 96)
    finest.square().mean().backward()
    for stage in net.encoder.stages:
        assert sum(p.grad.abs().sum() for p in stage.parameters()) > 0
    assert net.eval().passes(image).shape == (1, PASSES, 2, 64, 96)


def test_its_decoder_is_its_own() -> None:
    """One that is named would be ignored, whether there is such a one or not."""
    for decoder in ("nested", "unet"):
        config = NetworkConfig(encoder="lite_mono", pretrained="none", decoder=decoder)
        with pytest.raises(ConfigError, match=f"network.decoder is '{decoder}', but lite_mono has its own; expected .* left out"):
            DepthNet(config, outputs=1)


def test_monodepth2_teaches_every_weight_of_it_depth_and_poses(build: Build, street_batch: Batch) -> None:
    """It needs no method of its own."""
    views = tuple(replace(v, source_T_target=None, order=order) for v, order in zip(street_batch.views, (-1, 1), strict=True))
    method = build("monodepth2", data={"known_poses": False}, network={"encoder": "lite_mono_tiny"}).train()
    torch.stack(list(method.losses(replace(street_batch, views=views)).values())).sum().backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_no_imagenet_weights_of_it_come_with_the_packages() -> None:
    with pytest.raises(ConfigError, match="no such weights of lite_mono come with the packages"):
        build_encoder(NetworkConfig(encoder="lite_mono"), images=1)
