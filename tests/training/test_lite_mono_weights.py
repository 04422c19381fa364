"""Lite-Mono's weights from files in the layout of the published code: its network is restated here under its own names."""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import ConfigError, NetworkConfig
from training.networks import build_encoder, build_pose_net
from training.networks.lite_mono_weights import from_published

State = dict[str, Tensor]
# Channels, and dilations of each stage at 640x192; after those comes the block with the attention.
LAYOUTS = {
    "lite_mono_tiny": ((32, 64, 128), ((1, 2, 3), (1, 2, 3), (1, 2, 3, 2, 4, 6))),
    "lite_mono_small": ((48, 80, 128), ((1, 2, 3), (1, 2, 3), (1, 2, 3, 2, 4, 6))),
    "lite_mono": ((48, 80, 128), ((1, 2, 3), (1, 2, 3), (1, 2, 3, 1, 2, 3, 2, 4, 6))),
    "lite_mono_8m": ((64, 128, 224), ((1, 2, 3), (1, 2, 3), (1, 2, 3, 1, 2, 3, 2, 4, 6))),
}
WIDE_TINY = ((1, 2, 5), (1, 2, 5), (1, 2, 5, 2, 4, 10))


def published_state(name: str) -> State:
    """Random weights of every layer of the published encoder, as its state_dict names them."""
    channels, dilations = LAYOUTS[name]
    state = weight("stem2.0.conv", channels[0], channels[0] + 3, 3, 3)
    for index in range(3):
        state |= weight(f"downsample_layers.0.{index}.conv", channels[0], channels[0] if index else 3, 3, 3)
        state |= batchnorm(f"downsample_layers.0.{index}.bn_gelu.bn", channels[0])
    for index in (1, 2):
        state |= weight(f"downsample_layers.{index}.0.conv", channels[index], 2 * channels[index - 1] + 3, 3, 3)
    for index, c in enumerate(channels):
        for number in range(len(dilations[index])):
            state |= weight(f"stages.{index}.{number}.ddwconv.conv", c, 1, 3, 3)
            state |= batchnorm(f"stages.{index}.{number}.bn1", c)
            state |= pointwise(f"stages.{index}.{number}", c)
        state |= attention(f"stages.{index}.{len(dilations[index])}", c)
    return state | layer("stages.0.3.pos_embd.token_projection", channels[0], 64, 1, 1)


def pointwise(block: str, c: int) -> State:
    """What every block has; those with dilations never apply their norm."""
    layers = layer(f"{block}.pwconv1", 6 * c, c) | layer(f"{block}.pwconv2", c, 6 * c)
    return norm(f"{block}.norm", c) | layers | {f"{block}.gamma": torch.rand(c)}


def attention(block: str, c: int) -> State:
    state = norm(f"{block}.norm_xca", c) | layer(f"{block}.xca.qkv", 3 * c, c) | layer(f"{block}.xca.proj", c, c)
    state |= {f"{block}.gamma_xca": torch.rand(c), f"{block}.xca.temperature": 0.5 + torch.rand(8, 1, 1)}
    return state | pointwise(block, c)


def weight(name: str, *shape: int) -> State:
    return {f"{name}.weight": torch.randn(shape) / math.sqrt(math.prod(shape[1:]))}


def layer(name: str, *shape: int) -> State:
    return weight(name, *shape) | {f"{name}.bias": 0.1 * torch.randn(shape[0])}


def norm(name: str, c: int) -> State:
    return {f"{name}.weight": 0.5 + torch.rand(c), f"{name}.bias": 0.1 * torch.randn(c)}


def batchnorm(name: str, c: int) -> State:
    statistics = {
        "running_mean": 0.1 * torch.randn(c),
        "running_var": 0.5 + torch.rand(c),
        "num_batches_tracked": torch.tensor(7),
    }
    return norm(name, c) | {f"{name}.{key}": value for key, value in statistics.items()}


class Published:
    """What the published encoder computes in evaluation, from its equations, block by block."""

    def __init__(self, state: State, dilations: tuple[tuple[int, ...], ...]) -> None:
        self.state, self.dilations = state, dilations

    def features(self, image: Tensor) -> list[Tensor]:
        image = (image - 0.45) / 0.225
        x = image
        for index in range(3):
            x = F.conv2d(x, self.state[f"downsample_layers.0.{index}.conv.weight"], stride=1 if index else 2, padding=1)
            x = gelu(self.batchnorm(f"downsample_layers.0.{index}.bn_gelu.bn", x))
        seen, found = [x], []
        for index, name in enumerate(("stem2.0", "downsample_layers.1.0", "downsample_layers.2.0")):
            image = F.avg_pool2d(image, 3, 2, 1)
            before = F.conv2d(torch.cat([*seen, image], 1), self.state[f"{name}.conv.weight"], stride=2, padding=1)
            x = before
            for number, dilation in enumerate(self.dilations[index]):
                x = self.dilated(f"stages.{index}.{number}", x, dilation)
            x = self.attentive(f"stages.{index}.{len(self.dilations[index])}", x)
            found.append(x)
            seen = [before, x]
        return found

    def dilated(self, block: str, x: Tensor, dilation: int) -> Tensor:
        weight = self.state[f"{block}.ddwconv.conv.weight"]
        height, width = x.shape[-2:]
        padded, y = F.pad(x, [dilation] * 4), torch.zeros_like(x)
        for row in range(3):
            for column in range(3):
                moved = padded[..., row * dilation : row * dilation + height, column * dilation : column * dilation + width]
                y = y + weight[:, 0, row, column, None, None] * moved
        return x + self.pointwise(block, self.batchnorm(f"{block}.bn1", y))

    def attentive(self, block: str, x: Tensor) -> Tensor:
        y = x + self.position(block, x) if block.startswith("stages.0") else x
        q, k, v = self.linear(f"{block}.xca.qkv", self.layernorm(f"{block}.norm_xca", y)).chunk(3, dim=1)
        heads = [part.flatten(2).unflatten(1, (8, -1)) for part in (q, k, v)]  # (B, 8, channels of a head, pixels)
        q, k = (part / part.square().sum(-1, keepdim=True).sqrt() for part in heads[:2])
        weights = torch.softmax(torch.einsum("bhip,bhjp->bhij", q, k) * self.state[f"{block}.xca.temperature"], dim=-1)
        mixed = torch.einsum("bhij,bhjp->bhip", weights, heads[2]).flatten(1, 2).unflatten(2, x.shape[-2:])
        y = y + self.state[f"{block}.gamma_xca"][:, None, None] * self.linear(f"{block}.xca.proj", mixed)
        return x + self.pointwise(block, self.layernorm(f"{block}.norm", y))

    def position(self, block: str, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        waves = torch.zeros(64, height, width)
        for channel in range(32):
            wave, slowness = (math.sin, math.cos)[channel % 2], 10000 ** (channel // 2 / 16)
            for row in range(height):
                waves[channel, row] = wave(2 * math.pi * (row + 1) / height / slowness)
            for column in range(width):
                waves[32 + channel, :, column] = wave(2 * math.pi * (column + 1) / width / slowness)
        return self.linear(f"{block}.pos_embd.token_projection", waves[None])

    def pointwise(self, block: str, x: Tensor) -> Tensor:
        wide = gelu(self.linear(f"{block}.pwconv1", x))
        return self.state[f"{block}.gamma"][:, None, None] * self.linear(f"{block}.pwconv2", wide)

    def linear(self, layer: str, x: Tensor) -> Tensor:
        weight = self.state[f"{layer}.weight"].flatten(1)
        return torch.einsum("oc,bchw->bohw", weight, x) + self.state[f"{layer}.bias"][:, None, None]

    def batchnorm(self, layer: str, x: Tensor) -> Tensor:
        mean, var = self.state[f"{layer}.running_mean"][:, None, None], self.state[f"{layer}.running_var"][:, None, None]
        return self.affine(layer, (x - mean) / (var + 1e-5).sqrt())

    def layernorm(self, layer: str, x: Tensor) -> Tensor:
        return self.affine(layer, (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt())

    def affine(self, layer: str, x: Tensor) -> Tensor:
        return self.state[f"{layer}.weight"][:, None, None] * x + self.state[f"{layer}.bias"][:, None, None]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def save_imagenet(path: Path, state: State) -> Path:
    """As the published pre-training saves a classifier and its run."""
    classifier = {"norm.weight": torch.ones(128), "norm.bias": torch.zeros(128), "head.weight": torch.zeros(1000, 128)}
    torch.save({"model": {**state, **classifier}, "optimizer": {"state": {}}, "epoch": 99, "args": Namespace(lr=1e-3)}, path)
    return path


def save_encoder(path: Path, state: State) -> Path:
    """As the published training for depth saves an encoder, with what a counter of multiply-adds left behind."""
    torch.save({**state, "height": 192, "width": 640, "use_stereo": False, "stem2.total_ops": torch.zeros(1)}, path)
    return path


def config(name: str, path: Path) -> NetworkConfig:
    return NetworkConfig(encoder=name, pretrained=str(path))


@pytest.mark.parametrize(
    ("name", "width", "dilations"),
    [
        ("lite_mono_tiny", 640, LAYOUTS["lite_mono_tiny"][1]),
        ("lite_mono_tiny", 1024, WIDE_TINY),
        ("lite_mono", 640, LAYOUTS["lite_mono"][1]),
    ],
)
@pytest.mark.parametrize("save", [save_imagenet, save_encoder])
def test_published_weights_make_the_published_network(
    tmp_path: Path, name: str, width: int, dilations: tuple[tuple[int, ...], ...], save: type[save_imagenet]
) -> None:
    state, image = published_state(name), torch.rand(2, 3, 64, 96)
    encoder = build_encoder(config(name, save(tmp_path / "weights.pth", state)), images=1, width=width).eval()
    with torch.no_grad():
        found, expected = encoder(image), Published(state, dilations).features(image)
    for own, theirs in zip(found, expected, strict=True):
        assert theirs.std() > 0.1
        assert torch.allclose(own, theirs, rtol=1e-3, atol=1e-3 * float(theirs.std()))


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_variant_takes_its_own_weights_and_no_others(name: str) -> None:
    for other in LAYOUTS:
        if other == name:
            assert len(from_published({"model": published_state(other)}, name)) > 100
            continue
        with pytest.raises(ValueError, match=f"holds the weights of {other}; expected those of {name}$"):
            from_published({"model": published_state(other)}, name)


def test_the_error_names_the_file_and_both_variants(tmp_path: Path) -> None:
    path = save_imagenet(tmp_path / "small.pth", published_state("lite_mono_small"))
    with pytest.raises(ConfigError, match=r"small.pth: holds the weights of lite_mono_small; expected those of lite_mono$"):
        build_encoder(config("lite_mono", path), images=1)


def test_a_file_with_a_weight_missing_is_of_no_variant() -> None:
    state = published_state("lite_mono_tiny")
    del state["stages.1.3.xca.temperature"]
    with pytest.raises(ValueError, match="holds the weights of an unknown Lite-Mono; expected those of lite_mono_tiny"):
        from_published(state, "lite_mono_tiny")


def test_published_weights_do_not_fit_another_encoder(tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "encoder.pth", published_state("lite_mono_tiny"))
    with pytest.raises(ConfigError, match=r"encoder.pth: does not fit resnet18; expected its state_dict"):
        build_encoder(config("resnet18", path), images=1)


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name in ("lite_mono", "resnet18"):
        with pytest.raises(ConfigError, match=rf"list.pth: does not fit {name}; expected its state_dict"):
            build_encoder(config(name, tmp_path / "list.pth"), images=1)


def test_two_equal_images_excite_the_pose_nets_encoder_like_one(tmp_path: Path) -> None:
    """Every stage sees the colours of both images: with weights for one, half as strongly each."""
    trained = build_encoder(NetworkConfig(encoder="lite_mono_tiny", pretrained="none"), images=1).eval()
    torch.save(trained.state_dict(), tmp_path / "encoder.pt")
    pose, image = build_pose_net(config("lite_mono_tiny", tmp_path / "encoder.pt")).encoder.eval(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        pairs = zip(pose(torch.cat([image, image], dim=1)), trained(image), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)
