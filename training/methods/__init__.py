"""The table of methods. A method is losses over shared parts; every method states a sigma."""

from __future__ import annotations

from training.config import ConfigError, TrainConfig
from training.methods.ensemble import Ensemble
from training.methods.featdepth import FeatDepth, FeatureNetAlone
from training.methods.low_texture import LowTexture
from training.methods.method import Learner, Method, Predictor
from training.methods.midas import Midas
from training.methods.monodepth2 import Monodepth2
from training.methods.monodiffusion import MonoDiffusion
from training.methods.self_teaching import SelfTeaching
from training.methods.supervised import Supervised
from training.methods.taught import Taught

__all__ = [
    "CHOICES_HELP",
    "METHODS",
    "PARTS",
    "TAUGHT",
    "Ensemble",
    "FeatDepth",
    "Learner",
    "LowTexture",
    "Method",
    "Midas",
    "MonoDiffusion",
    "Monodepth2",
    "Predictor",
    "SelfTeaching",
    "Supervised",
    "Taught",
    "build_method",
    "method_type",
]

METHODS: dict[str, type[Method]] = {
    "monodepth2": Monodepth2,
    "supervised": Supervised,
    "self_teaching": SelfTeaching,
    "featdepth": FeatDepth,
    "low_texture": LowTexture,
    "monodiffusion": MonoDiffusion,
    "midas": Midas,
}
PARTS: dict[str, type[Learner]] = {"feature_net": FeatureNetAlone}  # trained beforehand, for a method; they predict no depth
TAUGHT = tuple(name for name, method in METHODS.items() if issubclass(method, Taught))  # those that method.teachers is for
CHOICES = sorted({key for method in METHODS.values() for key in method.choices})
CHOICES_HELP = f"choose anew what training left open, where the method has it; repeatable: {', '.join(CHOICES)}"


def method_type(config: TrainConfig) -> type[Learner]:
    """The class of the method, or of the part of one, that the config names. Raises ConfigError."""
    known = METHODS | PARTS
    if config.method.name not in known:
        raise ConfigError(f"method.name is '{config.method.name}'; expected one of {', '.join(known)}")
    return known[config.method.name]


def build_method(config: TrainConfig) -> Learner:
    """Build what method_type() finds. Raises ConfigError."""
    return method_type(config)(config)
