"""The table of methods. A method is losses over shared parts; every method states a sigma."""

from __future__ import annotations

from training.config import ConfigError, TrainConfig
from training.methods.ensemble import Ensemble
from training.methods.method import Method, Predictor
from training.methods.monodepth2 import Monodepth2
from training.methods.self_teaching import SelfTeaching
from training.methods.supervised import Supervised

__all__ = ["METHODS", "Ensemble", "Method", "Monodepth2", "Predictor", "SelfTeaching", "Supervised", "build_method"]

METHODS: dict[str, type[Method]] = {
    "monodepth2": Monodepth2,
    "supervised": Supervised,
    "self_teaching": SelfTeaching,
}


def build_method(config: TrainConfig) -> Method:
    """Build the method named in the config. Raises ConfigError."""
    if config.method.name not in METHODS:
        raise ConfigError(f"method.name is '{config.method.name}'; expected one of {', '.join(METHODS)}")
    return METHODS[config.method.name](config)
