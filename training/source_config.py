"""Where the images of one dataset are and which of them count: keys of a run's data section, and of each entry of its mix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceConfig:
    """One dataset. Paths are relative to data.root."""

    source: str = "video"  # a layout from training/data/sources.py; street: the procedural world alone; mixed: several, data.mix
    path: str = ""  # folder of any source but video and bag
    split: str = ""  # of a source that has standard ones: its name, or a folder of split files
    truth: str = ""  # which truth, where a source has several
    images: str = ""  # video: folder of its frames
    calibration: str = ""  # video: ROS YAML, or JSON with K, width and height; bag, tum, diml: if theirs lack it
    poses: str = ""  # video: one 3x4 row-major camera-to-world [m] per line and frame; none: unknown
    bag: str = ""  # bag: a ROS 2 bag; it, its calibration and the cache are relative to the working folder
    topic: str = ""  # bag: the images, where there are several cameras
    odometry: str = ""  # bag: topic of the distance driven, where there are several; none: use none
    cache: str = "runs/bags"  # bag: its images are extracted to a folder in here, once
    min_motion: float = 0.006  # bag: of the picture between images that are kept, as a share of its width
    max_gap_s: float = 1.0  # bag: images further apart are no neighbours
    val_share: float = 0.15  # bag: the end of the drive, for validation
    train_frames: tuple[int, int] = (0, -1)  # of one sequence: first frame and the one after the last; -1: to the end
    val_frames: tuple[int, int] = (0, 0)
    subset: float = 1.0  # share of the training images, drawn by subset_seed: for bootstrapped ensembles
    subset_seed: int = 0
    street_samples: int = 400  # rendered once at the start
    street_scenes: tuple[tuple[str, float], ...] = (("street", 1.0),)  # their shares: street, room, ground
    street_textures: str = "train"  # or test: another family, to judge on
    street_plain: float = 0.15  # share of their walls, and indoors of floors, without any texture


@dataclass(frozen=True)
class MixEntry(SourceConfig):
    """One of several mixed datasets; its keys stand in place of those of the run."""

    name: str = ""  # for messages and logs
    kind: str = ""  # depth, disparity, sfm or movie (training/data/mixed.py): what is known about its depth
