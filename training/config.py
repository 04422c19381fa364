"""Training configuration: typed defaults here and only here; a YAML states what differs; `--set a.b=c` overrides both."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from training.ranges import RANGES
from training.source_config import MixEntry, SourceConfig


class ConfigError(Exception):
    """A configuration that cannot be used; the text names the key, what was found and what was expected."""


@dataclass(frozen=True)
class DataConfig(SourceConfig):
    """What to train on: one source, or several that are mixed. Paths are relative to `root`."""

    root: str = "../shared/data"
    mix: tuple[MixEntry, ...] = ()  # mixed: the datasets
    mixing: str = "equal"  # mixed: as many samples of each dataset in every batch; proportional: as many as it has
    offsets: tuple[tuple[int, ...], ...] = ((-1, 1),)  # sets of neighbours [frames], one drawn per training sample
    known_poses: bool = True  # of the neighbours; false: learn them, and use only the distance travelled, if known
    stereo: bool = False  # also view the scene through the other camera of a stereo pair
    depth: bool = False  # give the losses the true depth, where there is one
    width: int = 416  # [px] of the network's input
    height: int = 128  # [px]
    street_share: float = 0.0  # share of training batches from the procedural street world, which has exact depth
    street_views: tuple[str, ...] = ()  # of those: before, after, left, right (0.54 m; rooms 0.12 m); none: exact depth alone
    flip: bool = True
    max_zoom: float = 1.0  # random crop of 1/zoom of the image, resized back; the camera follows
    colour_jitter: float = 0.2  # brightness, contrast, saturation and gamma within 1 +- this; the networks' input only
    workers: int = 1  # loader processes

    @property
    def learns_pose(self) -> bool:
        """Whether training views have poses that nobody knows."""
        if self.source == "mixed":  # single images
            return False
        street = not {"before", "after"}.isdisjoint(self.street_views)
        return not self.known_poses and (street if self.source == "street" else any(self.offsets))

    @property
    def folder(self) -> Path:
        """Where the source is, of those that have a path."""
        return Path(self.root) / self.path


@dataclass(frozen=True)
class MethodConfig:
    """Which method, and the weights of its losses."""

    name: str = "monodepth2"
    auto_masking: bool = True
    scales: int = 3  # of the decoder's outputs, finest first, that enter the loss
    sigma: str = ""  # flip, dropout, repr or log (training/uncertainty.py); none: flip, or log where depth is learned from depth
    auto_mask_stereo: bool = True  # false: no auto-masking in batches with the other camera of a pair (FeatDepth's code)
    charbonnier: bool = False  # sqrt(x^2 + 1e-6) in place of |x| where views are compared (FeatDepth's code)
    smoothness: float = 1e-3
    smoothness_order: str = "first"  # first, second or both: which differences of the disparity
    smoothness_edges: float = 1.0  # a in exp(-a |dI|), what an edge of the image permits (FeatDepth's code: 0.5)
    smoothness_stereo_mean: bool = True  # false: disparity not divided by its mean in batches with a pair (FeatDepth's code)
    supervised: float = 1.0  # weight of the true depth where a batch has it
    velocity: float = 0.0  # weight that ties a learned pose's translation to the distance travelled
    camera_height: float = 0.0  # [m] of the camera above flat ground, which then ties the scale of depth; 0: unknown
    ground: float = 0.05  # weight of that
    normalise_disparity: bool = False  # by its mean before warping: prevents collapse with learned poses, loses metric scale
    teachers: tuple[str, ...] = ()  # checkpoints or bundles, for self_teaching, monodiffusion and midas (of any kind)


@dataclass(frozen=True)
class FeatureConfig:
    """What FeatDepth compares besides pixels, and the auto-encoder (FeatureNet) that makes it: Shu et al., ECCV 2020."""

    checkpoint: str = ""  # of method feature_net: its FeatureNet, frozen; none: one trained jointly
    encoder: str = ""  # of the FeatureNet, from random weights; none: network.encoder with network.pretrained
    weight: float = 1e-3  # of the feature-metric error
    levels: tuple[int, ...] = (0,)  # of the encoder, 0 at half the size; the error is the mean over them
    detach: bool = False  # joint training: keep the feature-metric error's gradient from the FeatureNet
    discriminative: float = 1e-3  # weight of L_dis (alpha)
    convergent: float = 1e-3  # weight of L_cvt (beta)
    edge_weighted_convergence: bool = False  # relax L_cvt at edges of the image (the code)
    photometric_reconstruction: bool = False  # L_rec with SSIM (the code); false: L1 alone
    reconstruction_scales: int = 1  # of the decoder's, finest first (the code: 4)


@dataclass(frozen=True)
class DiffusionConfig:
    """MonoDiffusion (Shao et al., 2023). Values per scale are finest first: at 1, 1/2, 1/4 of the image's size."""

    train_steps: tuple[int, ...] = (150, 200, 250)  # of each scale's noise schedule
    steps: tuple[int, ...] = (3, 4, 5)  # of each scale's sampling; a single entry: one scale, not coarse to fine
    spacing: str = "leading"  # of those among the schedule's: leading, or trailing, which few steps need
    prediction: str = "epsilon"  # epsilon, v, or direct: the control without noise, of as many weights
    zero_terminal: bool = False  # schedules rescaled to end in pure noise; needs v and trailing
    centre: float = 0.0  # disparity logit that is zero to the diffusion
    shared_denoiser: bool = False  # one for all scales
    geometric_cue: bool = True  # the coarser scale's logit is added to the condition
    fresh_noise: bool = False  # each scale its own; false: the coarsest one's, enlarged
    samples: int = 4  # noises of a prediction with method.sigma: samples
    denoising: float = 1.0  # weight of the denoiser's error
    distillation: float = 1.0  # weight of the distance to the teacher's disparity
    filter: str = "both"  # which of the teacher's pixels count (training/multi_view.py): both, depth, strict, none (the code)
    masked: float = 0.1  # weight of the pass with masked features, which has an optimiser step of its own; 0: none
    mask_share: float = 0.2  # of the features that are hidden there
    mask_block: int = 1  # side of what is hidden at once [pixels of the finest feature]


@dataclass(frozen=True)
class MidasConfig:
    """MiDaS (Ranftl et al., TPAMI 2022): what is compared with inverse depth that is true up to a scale and a shift."""

    loss: str = "ssitrim"  # training/relative_losses.py: ssitrim, ssimae, ssimse; or a rival: simse, silog, ordinal, nmg
    trimmed: float = 0.2  # ssitrim: share of an image's largest residuals that do not count
    pairs: int = 5000  # ordinal: random ones of an image
    gradient: float = 0.5  # weight of the multi-scale gradient matching (alpha)
    gradient_scales: int = 4


@dataclass(frozen=True)
class NetworkConfig:
    """The depth network (and the pose network's encoder)."""

    encoder: str = "efficientnet_lite0"
    pretrained: str = "imagenet"  # imagenet, none, or the path of a state_dict
    decoder: str = "light"  # light (Lite-Mono: its own), monodepth2, chained_pooling, nested, nested_light, midas, midas_small
    last_relu_only: bool = False  # resnet, not in the pose net: of a stage's additions only the last has a ReLU
    pooled_shortcut: bool = False  # resnet, not in the pose net: shortcuts that halve the size take a maximum first
    frozen_batchnorm: bool = False  # keep the statistics of run.init: for batches of mixed domains
    min_depth: float = 1.0  # [m]
    max_depth: float = 100.0  # [m]


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up and a schedule (training/schedules.py)."""

    batch_size: int = 8  # of all devices together
    learning_rate: float = 2e-4
    pose_learning_rate: float = 0.0  # of the pose network; 0: the same
    pretrained_rate: float = 1.0  # factor on the learning rate of encoders with network.pretrained (MiDaS: 0.1)
    schedule: str = "cosine"  # cosine, step, or cyclic (cosine with restarts, run.cycles)
    drop_steps: tuple[int, ...] = ()  # step: where the rate is multiplied by drop_factor
    drop_factor: float = 0.1
    weight_decay: float = 1e-2
    warmup_steps: int = 50
    mixing: str = "sum"  # of the loss's terms; pareto: weights with which none of them gets worse (training/mixing.py)
    pareto_parameters: str = r"(encoder\.stages\.[2-9]|decoder)\."  # regular expression: names of weights whose gradients decide
    pareto_normalisation: str = "l2"  # of those gradients: none, l2 (length), loss, loss+ (loss times length)
    clip_norm: float = 1.0  # of the gradient; .inf: no clipping
    ema: float = 0.99  # decay of the averaged weights that are validated and exported


@dataclass(frozen=True)
class RunConfig:
    """Where and how long."""

    dir: str = "runs/default"
    max_steps: int = 2000
    cycles: int = 1  # of the cyclic schedule; each ends with a snapshot_<n>.ckpt
    keep: int = 8  # newest snapshots that stay
    seed: int = 0
    log_every: int = 20
    validate_every: int = 200  # also the interval of checkpoints
    init: str = ""  # checkpoint whose depth network's weights are the start
    refine: str = ""  # online refinement: the checkpoint that goes on, with all its weights, on the images it will be judged by
    accelerator: str = "auto"  # Lightning Fabric's names
    devices: int = 1  # of this machine; torchrun decides by itself
    precision: str = "32-true"  # of the networks: 32-true, bf16-mixed or 16-mixed; losses are always in 32 bits


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run."""

    data: DataConfig = field(default_factory=DataConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    feature: FeatureConfig = field(default_factory=FeatureConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    midas: MidasConfig = field(default_factory=MidasConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML of differences and apply overrides like `run.max_steps=100`. Raises ConfigError."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a training YAML such as config/train/monodepth2.yaml") from error
    config: TrainConfig = merge(TrainConfig(), _parse(text, str(path)) or {}, str(path))
    check(config, str(path))
    return override(config, overrides)


def override(config: TrainConfig, changes: Sequence[str]) -> TrainConfig:
    """Apply changes like `run.max_steps=100`, the values of --set. Raises ConfigError."""
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals or "." not in name:
            raise ConfigError(f"--set {change}: expected section.key=value, for example run.max_steps=100")
        section, key = name.split(".", 1)
        config = merge(config, {section: {key: _parse(text, f"--set {change}") if text else ""}}, f"--set {change}")
        check(config, f"--set {change}")
    return config


def check(config: TrainConfig, where: str) -> None:
    """Raise ConfigError, naming `where` and the key, if a value is outside its range."""
    for keys, fits, expected in RANGES:
        for key in keys:
            section, name = key.split(".")
            holders = {section: getattr(config, section)}
            if section == "data" and name in {f.name for f in fields(SourceConfig)}:
                holders |= {f"data.mix: '{entry.name}'": entry for entry in config.data.mix}
            for holder, values in holders.items():
                value = getattr(values, name)
                if not fits(value):
                    raise ConfigError(f"{where}: {holder}.{name} is {value}; expected {expected}")


def _parse(text: str | bytes, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not readable as YAML: {' '.join(str(error).split())}") from error


def merge(defaults: Any, values: dict[str, Any], where: str) -> Any:
    """Return the dataclass `defaults` with `values` (nested dicts) in place. Raises ConfigError naming `where`."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: found {values!r}; expected a section of keys")
    known = [f.name for f in fields(defaults)]
    types = get_type_hints(type(defaults))
    changes = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; {suggest(key, known)}known: {', '.join(known)}")
        current = getattr(defaults, key)
        changes[key] = (
            merge(current, value, f"{where}: {key}") if is_dataclass(current) else _convert(types[key], value, f"{where}: {key}")
        )
    return replace(defaults, **changes)


def suggest(word: Any, known: Iterable[str]) -> str:
    """The question whether the known word closest to a wrong one was meant; empty where none is close."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f"did you mean '{close[0]}'? " if close else ""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain nested dicts and lists, for YAML files and checkpoints."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _convert(kind: Any, value: Any, where: str) -> Any:
    """Check that value is of the field's type; lists become tuples, sections dataclasses, YAML's `2e-4` becomes a float."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: found {value!r}; expected a list")
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f"{where}: found {value!r}; expected {len(kinds)} entries")
        return tuple(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    if is_dataclass(kind):
        name = value.get("name") if isinstance(value, dict) else None
        return merge(kind(), value, f"{where}: '{name}'" if name else where)
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{where}: found {value!r}; expected a number") from None
    if type(value) is not kind:
        raise ConfigError(f"{where}: found {value!r} ({type(value).__name__}); expected {kind.__name__}")
    return value
