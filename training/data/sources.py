"""The table of real data sources: a name and a function that opens the layout. A source added is one line here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from training.config import ConfigError, DataConfig
from training.data.bags.recording import open_bag
from training.data.diml import open_diml
from training.data.kitti.odometry import open_kitti_odometry
from training.data.kitti.raw import open_kitti_raw
from training.data.kitti.stereo2015 import open_kitti_stereo2015
from training.data.make3d import open_make3d
from training.data.nyu import open_nyu
from training.data.recording import Target
from training.data.rgbd import open_sevenscenes, open_tum
from training.data.stereo import open_stereo
from training.data.video import open_folder, open_video
from training.data.vkitti2 import open_vkitti2

# (data config, part) -> the images of that part: "train", "val", or "test" for judging.
SOURCES: dict[str, Callable[[DataConfig, str], list[Target]]] = {
    "video": open_video,
    "folder": open_folder,
    "stereo": open_stereo,
    "tum": open_tum,
    "7scenes": open_sevenscenes,
    "nyu": open_nyu,
    "make3d": open_make3d,
    "diml": open_diml,
    "vkitti2": open_vkitti2,
    "bag": open_bag,
    "kitti_raw": open_kitti_raw,
    "kitti_odometry": open_kitti_odometry,
    "kitti_stereo2015": open_kitti_stereo2015,
}

SEVERAL_TRUTHS = ("stereo", "nyu", "kitti_raw", "kitti_stereo2015")  # those that data.truth chooses from


def open_source(config: DataConfig, part: str) -> list[Target]:
    """Open the part of the source that the configuration names. Raises ConfigError or InputError."""
    if config.source not in SOURCES:
        raise ConfigError(f"data.source is '{config.source}'; expected one of {', '.join((*SOURCES, 'street', 'mixed'))}")
    if config.truth and config.source not in SEVERAL_TRUTHS:
        raise ConfigError(
            f"data.truth is '{config.truth}', but source '{config.source}' has a single truth; expected none, or a source of "
            f"several: {', '.join(SEVERAL_TRUTHS)}"
        )
    return SOURCES[config.source](config, part)


def choose_subset(targets: Sequence[Target], share: float, seed: int) -> list[Target]:
    """A random share of the targets, in their order; all of them for 1."""
    count = max(1, round(share * len(targets)))
    chosen = np.random.default_rng(seed).permutation(len(targets))[:count]
    return [targets[index] for index in sorted(chosen)]
