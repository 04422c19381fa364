"""BatchNorm that keeps its statistics: small batches, or batches of several domains, would spoil them."""

from __future__ import annotations

from torch import nn


def freeze_statistics(network: nn.Module) -> None:
    """Put the network's BatchNorm layers into evaluation mode; their scale and shift still learn."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
