"""ResNet-18 and ResNet-50 encoders (He et al. 2016), the backbones of Monodepth2, with two changes for weak texture.

Both changes are of Xu et al., "Self-Supervised Monocular Depth Learning in Low-Texture Areas" (Remote Sensing 2021), by way of
iResNet (Duta et al. 2020), and each has its switch. Neither has weights: those of an ordinary ResNet fit all variants.

* `last_relu_only`: of a stage's blocks only the last has a ReLU after its addition, so that negative values pass through a stage.
* `pooled_shortcut`: where a shortcut halves the size, a 3x3 maximum comes before its 1x1 convolution, which on its own would
  read one position of four.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, or a 1x1-3x3-1x1 bottleneck with expansion 4, around a shortcut.

    `rectified`: a ReLU follows the addition. `pooled`: a maximum, not the convolution's stride, halves the shortcut's size.
    """

    def __init__(
        self, inputs: int, width: int, stride: int, bottleneck: bool, rectified: bool = True, pooled: bool = False
    ) -> None:
        super().__init__()
        outputs = width * (4 if bottleneck else 1)
        pooled = pooled and stride > 1
        relu = nn.ReLU(inplace=True)
        if bottleneck:
            layers = [_conv_bn(inputs, width, 1), relu, _conv_bn(width, width, 3, stride), relu, _conv_bn(width, outputs, 1)]
        else:
            layers = [_conv_bn(inputs, width, 3, stride), relu, _conv_bn(width, outputs, 3)]
        self.body = nn.Sequential(*layers)
        self.pool = nn.MaxPool2d(3, stride, 1) if pooled else nn.Identity()
        self.shortcut = (
            nn.Identity() if stride == 1 and inputs == outputs else _conv_bn(inputs, outputs, 1, 1 if pooled else stride)
        )
        self.relu = nn.ReLU(inplace=True) if rectified else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.relu(self.body(x) + self.shortcut(self.pool(x)))


class ResNet(nn.Module):
    """Five feature maps at strides 2, 4, 8, 16, 32; the first is taken before the max pooling."""

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        bottleneck: bool,
        images: int = 1,
        last_relu_only: bool = False,
        pooled_shortcut: bool = False,
    ) -> None:
        super().__init__()
        expansion = 4 if bottleneck else 1
        self.channels = (64, *(width * expansion for width in (64, 128, 256, 512)))
        self.stem = nn.Sequential(_conv_bn(3 * images, 64, 7, 2), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, inputs = [], 64
        for index, (count, width) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True)):
            stage = []
            for number in range(count):
                stride = 2 if index > 0 and number == 0 else 1
                rectified = number == count - 1 or not last_relu_only
                stage.append(ResidualBlock(inputs, width, stride, bottleneck, rectified, pooled_shortcut))
                inputs = width * expansion
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB images in [0, 1] (B, 3 * images, H, W) -> features (B, channels[i], H / 2^(i+1), W / 2^(i+1))."""
        features = [self.stem((image - 0.45) / 0.225)]
        x = self.pool(features[0])
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def resnet18(images: int = 1, **changes: bool) -> ResNet:
    """ResNet-18: 11.2 M parameters. `changes` are the switches above."""
    return ResNet((2, 2, 2, 2), bottleneck=False, images=images, **changes)


def resnet50(images: int = 1, **changes: bool) -> ResNet:
    """ResNet-50: 23.5 M parameters. `changes` are the switches above."""
    return ResNet((3, 4, 6, 3), bottleneck=True, images=images, **changes)
