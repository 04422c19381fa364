"""The two changes of the low-texture paper to ResNet, each on its own: what passes a stage, and what a shortcut sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.config import ConfigError, NetworkConfig
from training.networks import DepthNet, build_pose_net
from training.networks.resnet import ResidualBlock, ResNet, resnet18, resnet50

Build = Callable[..., ResNet]
BLOCKS = {resnet18: (2, 2, 2, 2), resnet50: (3, 4, 6, 3)}


def block_outputs(net: ResNet) -> list[list[Tensor]]:
    """What every block of every stage gives for one image of noise."""
    outputs: list[list[Tensor]] = [[] for _ in net.stages]
    for found, stage in zip(outputs, net.stages, strict=True):
        for block in stage:
            block.register_forward_hook(lambda module, inputs, output, found=found: found.append(output.clone()))
    with torch.no_grad():
        net.eval()(torch.rand(1, 3, 64, 64))
    return outputs


@pytest.mark.parametrize("build", BLOCKS)
def test_negative_values_pass_all_blocks_of_a_stage_but_the_last(build: Build) -> None:
    stages = block_outputs(build(last_relu_only=True))
    assert tuple(len(stage) for stage in stages) == BLOCKS[build]
    assert all(block.min() >= 0 for *_, block in stages)
    assert all(block.min() < 0 for *others, _ in stages for block in others)


@pytest.mark.parametrize("build", BLOCKS)
def test_an_ordinary_resnet_rectifies_after_every_block(build: Build) -> None:
    for changes in ({}, {"pooled_shortcut": True}):
        assert all(block.min() >= 0 for stage in block_outputs(build(**changes)) for block in stage)


def positions_seen(block: ResidualBlock) -> list[tuple[int, int]]:
    """Of the four positions in an output pixel's reach, those that alone change what the shortcut gives."""
    for layer in (m for m in block.body.modules() if isinstance(m, nn.Conv2d)):
        nn.init.zeros_(layer.weight)
    seen = []
    with torch.no_grad():
        plain = block.eval()(torch.zeros(1, 4, 8, 8))
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            spot = torch.zeros(1, 4, 8, 8)
            spot[:, :, 4 + row, 4 + column] = 1.0
            if not torch.equal(block(spot), plain):
                seen.append((row, column))
    return seen


@pytest.mark.parametrize("bottleneck", [False, True])
def test_a_maximum_sees_all_four_positions_a_strided_shortcut_one(bottleneck: bool) -> None:
    strided = ResidualBlock(4, 8, 2, bottleneck, rectified=False)
    pooled = ResidualBlock(4, 8, 2, bottleneck, rectified=False, pooled=True)
    assert positions_seen(strided) == [(0, 0)]
    assert positions_seen(pooled) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_shortcut_that_keeps_its_size_is_not_pooled() -> None:
    """ResNet-50's first stage widens at stride 1: its 1x1 convolution reads every position already."""
    torch.manual_seed(0)
    plain, pooled = ResidualBlock(4, 8, 1, True).eval(), ResidualBlock(4, 8, 1, True, pooled=True).eval()
    pooled.load_state_dict(plain.state_dict())
    image = torch.randn(1, 4, 6, 6)
    assert torch.equal(plain(image), pooled(image))


@pytest.mark.parametrize("build", BLOCKS)
def test_the_weights_of_an_ordinary_resnet_fit_and_each_change_counts(build: Build) -> None:
    image, ordinary = torch.rand(1, 3, 64, 64), build().eval()
    with torch.no_grad():
        features = [ordinary(image)]
        for changes in ({"last_relu_only": True}, {"pooled_shortcut": True}, {"last_relu_only": True, "pooled_shortcut": True}):
            changed = build(**changes).eval()
            changed.load_state_dict(ordinary.state_dict())
            features.append(changed(image))
    shapes = [[f.shape for f in found] for found in features]
    assert shapes == shapes[:1] * 4
    deepest = [found[-1] for found in features]
    assert not any(torch.allclose(deepest[i], deepest[j], rtol=1e-2) for i in range(4) for j in range(i))
    assert all(torch.equal(found[0], features[0][0]) for found in features)


def test_every_weight_of_a_changed_resnet_learns() -> None:
    net = resnet18(last_relu_only=True, pooled_shortcut=True).train()
    sum(f.square().mean() for f in net(torch.rand(2, 3, 64, 64))).backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_configuration_changes_the_depth_encoder_and_not_the_pose_net() -> None:
    config = NetworkConfig(encoder="resnet18", pretrained="none", last_relu_only=True, pooled_shortcut=True)
    for encoder, pooled in ((DepthNet(config, 1).encoder, 3), (build_pose_net(config).encoder, 0)):
        blocks = [block for stage in encoder.stages for block in stage]
        assert sum(isinstance(block.pool, nn.MaxPool2d) for block in blocks) == pooled
        assert sum(isinstance(block.relu, nn.ReLU) for block in blocks) == (4 if pooled else 8)


@pytest.mark.parametrize("changes", [{}, {"last_relu_only": True, "pooled_shortcut": True}])
def test_weights_for_one_image_start_depth_and_pose_net_alike(tmp_path: Path, changes: dict[str, bool]) -> None:
    """Two equal images excite the pose net's encoder as one excites the network that the weights are of."""
    trained = resnet18().eval()
    torch.save(trained.state_dict(), tmp_path / "encoder.pt")
    config = NetworkConfig(encoder="resnet18", pretrained=str(tmp_path / "encoder.pt"), **changes)
    depth, pose, image = DepthNet(config, 1).encoder, build_pose_net(config).encoder.eval(), torch.rand(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(depth.state_dict().values(), trained.state_dict().values(), strict=True))
    with torch.no_grad():
        pairs = zip(pose(torch.cat([image, image], dim=1)), trained(image), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize("change", ["last_relu_only", "pooled_shortcut"])
def test_other_encoders_have_nothing_of_the_kind_to_change(change: str) -> None:
    with pytest.raises(ConfigError, match=f"network.{change} changes a ResNet, not efficientnet_lite0; expected false"):
        DepthNet(NetworkConfig(pretrained="none", **{change: True}), 1)
