"""Networks as graphs behind a bundle's input: ONNX Runtime computes what torch does, and TensorRT-RTX parses them."""

from __future__ import annotations

import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from training.networks.lite_mono import LiteMono, LiteMonoDecoder, Variant
from training.networks.nested_decoder import NestedDecoder
from training.networks.resnet import ResNet

HEIGHT, WIDTH = 64, 96
FINEST = {"lite_mono": (32, 48), "low_texture": (64, 96)}  # height and width of the finest map


class Graph(nn.Module):
    """Images (N, HEIGHT, WIDTH, 3) uint8 to the finest map (N, h, w) of a network of every part but few of them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name == "lite_mono":
            self.encoder: nn.Module = LiteMono(Variant((16, 16, 24), repeats=0))
            self.decoder: nn.Module = LiteMonoDecoder(self.encoder.channels, outputs=1)
            for block in (m for m in self.encoder.modules() if hasattr(m, "scale")):
                nn.init.constant_(block.scale, 0.1)  # the blocks count, as after training
        else:
            self.encoder = ResNet((2, 1, 1, 1), bottleneck=False, last_relu_only=True, pooled_shortcut=True)
            self.decoder = NestedDecoder(self.encoder.channels, outputs=1, light=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.decoder(self.encoder(image.float().permute(0, 3, 1, 2) / 255))[0].squeeze(1)


@pytest.fixture(scope="module", params=FINEST)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Graph, bytes]:
    """A network's name, the network and its ONNX."""
    torch.manual_seed(0)
    graph, file = Graph(request.param).eval(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    example = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    torch.onnx.export(
        graph, (example,), file, input_names=["image"], output_names=["map"], opset_version=18, dynamo=True,
        external_data=False, dynamic_shapes={"image": {0: torch.export.Dim("N")}}, verbose=False,
    )  # fmt: skip
    return request.param, graph, file.read_bytes()


def test_the_exported_graph_equals_torch(exported: tuple[str, Graph, bytes]) -> None:
    _, graph, model = exported
    images = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), graph(images), atol=1e-4)


def test_tensorrt_parses_the_exported_graph(exported: tuple[str, Graph, bytes]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    parsed = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(parsed, trt.Logger(trt.Logger.ERROR))
    name, _, model = exported
    assert parser.parse(model), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    assert tuple(parsed.get_input(0).shape) == (-1, HEIGHT, WIDTH, 3)
    assert tuple(parsed.get_output(0).shape) == (-1, *FINEST[name])
