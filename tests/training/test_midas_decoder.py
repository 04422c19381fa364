"""MiDaS's decoder: its weights counted by hand, what each feature reaches, and the graph of it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.networks.midas_decoder import MidasDecoder, ResidualUnit, double

CHANNELS = (6, 8, 10, 12, 14)  # of an encoder, all different
THREE = (0, 8, 10, 12)  # of one without a feature at stride 2 or 32, as Lite-Mono


def encoder_features(height: int = 64, width: int = 96, batch: int = 1, channels: tuple[int, ...] = CHANNELS) -> list[Tensor]:
    sizes = [(height // 2**i, width // 2**i) for i in range(1, 6)]
    return [torch.randn(batch, c, *size) for c, size in zip(channels, sizes, strict=False) if c > 0]


@pytest.mark.parametrize("light", [False, True])
def test_it_has_the_weights_of_the_paper(light: bool) -> None:
    """Four reductions without bias, four units and three of skips, two convolutions of the head and the last one."""

    def weights(inputs: int, outputs: int, bias: bool = True) -> int:
        return (9 * inputs + inputs * outputs if light else 9 * inputs * outputs) + bias * outputs

    width = 64 if light else 256
    reductions = sum(weights(c, width, bias=False) for c in CHANNELS[1:])
    head = weights(width, width // 2) + weights(width // 2, 32) + (32 * 2 + 2)
    expected = reductions + 7 * 2 * weights(width, width) + head
    assert sum(p.numel() for p in MidasDecoder(CHANNELS, 2, light).parameters()) == expected


@pytest.mark.parametrize("light", [False, True])
def test_one_map_of_full_size_from_the_features_at_strides_4_to_32(light: bool) -> None:
    decoder = MidasDecoder(CHANNELS, 2, light)
    features = [f.requires_grad_() for f in encoder_features()]
    maps = decoder(features)
    assert {scale: tuple(m.shape) for scale, m in maps.items()} == {0: (1, 2, 64, 96)}
    gradients = torch.autograd.grad(maps[0].square().sum(), features, allow_unused=True)
    assert gradients[0] is None
    assert all(g.abs().sum() > 0 for g in gradients[1:])


def test_as_many_features_as_there_are_reach_the_map() -> None:
    """A fourth one at stride 2, which is not used, changes neither weights nor the map."""
    decoder = MidasDecoder(THREE, 2, light=True)
    features = [f.requires_grad_() for f in encoder_features(channels=THREE)]
    maps = decoder(features)
    assert {scale: tuple(m.shape) for scale, m in maps.items()} == {0: (1, 2, 64, 96)}
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(maps[0].square().sum(), features))
    other = MidasDecoder(CHANNELS[:4], 2, light=True)
    other.load_state_dict(decoder.state_dict())
    torch.testing.assert_close(other([torch.randn(1, 6, 32, 48), *features])[0], maps[0])


def test_a_unit_adds_to_what_it_gets_and_does_not_change_it() -> None:
    """Of negative values the unit's branch sees nothing: they pass, and only the biases are added."""
    unit = ResidualUnit(3, light=False)
    x = -torch.rand(1, 3, 6, 6) - 0.1
    before = x.clone()
    found = unit(x)
    assert torch.equal(x, before)
    biases = F.relu(unit.first.bias)[:, None, None].expand(1, 3, 6, 6)
    torch.testing.assert_close(found, x + unit.second(biases))


def test_doubling_keeps_corners_and_ramps() -> None:
    ramp = torch.linspace(0, 1, 4)[None, None, None].expand(1, 1, 3, 4)
    torch.testing.assert_close(double(ramp), torch.linspace(0, 1, 8)[None, None, None].expand(1, 1, 6, 8))


@pytest.mark.parametrize(("channels", "light"), [(CHANNELS, False), (CHANNELS, True), (THREE, True)])
def test_its_graph_gives_what_it_gives(channels: tuple[int, ...], light: bool, tmp_path: object) -> None:
    decoder, features = MidasDecoder(channels, 1, light).eval(), encoder_features(64, 64, batch=2, channels=channels)
    file = f"{tmp_path}/decoder.onnx"
    torch.onnx.export(decoder, (features,), file, dynamo=True, opset_version=18, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    inputs = [f.numpy() for f in features]  # the graph has none for the feature that is not used
    given = {i.name: next(f for f in inputs if list(f.shape) == i.shape) for i in session.get_inputs()}
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, given)[0], decoder(features)[0].numpy(), atol=1e-4)
