"""The nested decoder: its topology by shapes and reach, and what it has in common with the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.networks.depth_decoder import PASSES, DepthDecoder
from training.networks.nested_decoder import NestedDecoder

CHANNELS = (6, 8, 10, 12, 14)  # of an encoder, all different
WIDTHS = {False: (32, 64, 128, 256), True: (32, 48, 64, 96)}  # of the plain decoder at strides 2 .. 16


def encoder_features(height: int = 64, width: int = 96, batch: int = 1) -> list[Tensor]:
    sizes = [(height // 2**i, width // 2**i) for i in range(1, 6)]
    return [torch.randn(batch, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize("light", [False, True])
def test_every_node_has_its_level_and_every_head_its_scale(light: bool) -> None:
    decoder = NestedDecoder(CHANNELS, 2, light).eval()
    features = encoder_features()
    nodes = decoder.nodes(features)
    assert sorted(node for node in nodes if node[1]) == sorted(
        [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (0, 4)]
    )
    for (level, column), node in nodes.items():
        width = WIDTHS[light][level] if column else CHANNELS[level]
        assert tuple(node.shape) == (1, width, 32 // 2**level, 48 // 2**level)
    first = 1 if light else 0
    assert {scale: tuple(m.shape) for scale, m in decoder(features).items()} == {
        scale: (1, 2, 64 // 2**scale, 96 // 2**scale) for scale in range(first, 4)
    }


def test_a_node_takes_the_one_below_and_all_before_it_on_its_level() -> None:
    """Node (i, j) sees the features of levels i to i + j, and no others."""
    decoder = NestedDecoder(CHANNELS, 1, light=False).eval()
    features = [f.requires_grad_() for f in encoder_features(64, 64)]
    for (level, column), node in decoder.nodes(features).items():
        gradients = torch.autograd.grad(node.square().sum(), features, allow_unused=True, retain_graph=True)
        seen = [i for i, g in enumerate(gradients) if g is not None and g.abs().sum() > 0]
        assert seen == list(range(level, level + column + 1))


@pytest.mark.parametrize("light", [False, True])
def test_without_its_inner_nodes_it_is_the_plain_decoder(light: bool) -> None:
    """The plain decoder's weights in the last nodes, and nothing taken from the nodes between: the same maps."""
    plain, nested = DepthDecoder(CHANNELS, 2, light).eval(), NestedDecoder(CHANNELS, 2, light).eval()
    for scale in plain.scales:
        name = f"{scale - 1}{5 - scale}" if scale else "full"
        nested.before[name].load_state_dict(plain.before[str(scale)].state_dict())
        state, wide = plain.after[str(scale)].state_dict(), nested.after[name].state_dict()
        for key, value in state.items():
            if value.shape != wide[key].shape:  # along what comes in: the node below, then the level's from the first on
                axis = next(a for a, (x, y) in enumerate(zip(value.shape, wide[key].shape, strict=True)) if x != y)
                padding = wide[key].shape[axis] - value.shape[axis]
                missing = torch.zeros(*value.shape[:axis], padding, *value.shape[axis + 1 :])
                state[key] = torch.cat([value, missing], dim=axis)
        nested.after[name].load_state_dict(state)
    nested.heads.load_state_dict(plain.heads.state_dict())
    features = encoder_features()
    with torch.no_grad():
        found, expected = nested(features), plain(features)
    assert list(found) == list(expected)
    for scale in expected:
        torch.testing.assert_close(found[scale], expected[scale], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("light", [False, True])
def test_the_finest_head_alone_teaches_every_node(light: bool) -> None:
    decoder = NestedDecoder(CHANNELS, 1, light).train()
    features = [f.requires_grad_() for f in encoder_features(batch=2)]
    next(iter(decoder(features).values())).square().mean().backward()
    unused = {name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name.split(".")[0] for name in unused} == {"heads"}
    assert all(f.grad.abs().sum() > 0 for f in features)


def test_passes_drop_other_channels_in_every_node() -> None:
    decoder = NestedDecoder(CHANNELS, 1, light=True, dropout=True).eval()
    features = [f[:, None].expand(-1, PASSES, -1, -1, -1).flatten(0, 1) for f in encoder_features(64, 64)]
    with torch.no_grad():
        maps = decoder(features, passes=True)[1]
        assert torch.equal(decoder(features, passes=True)[1], maps)
    assert all(not torch.allclose(maps[i], maps[j]) for i in range(PASSES) for j in range(i))
    masks = [drop.masks for drop in decoder.drops.values()]
    assert len(masks) == 20
    same = [(i, j) for i in range(20) for j in range(i) if torch.equal(masks[i], masks[j])]
    assert same == []


def test_heads_are_where_the_network_sets_its_start() -> None:
    heads = NestedDecoder(CHANNELS, 2, light=True).heads
    assert list(heads) == ["1", "2", "3"]
    assert all(isinstance(head, nn.Conv2d) and head.bias.shape == (2,) for head in heads.values())
