"""From the node's parameters to an engine that runs, with what is worth saying on the way."""

from __future__ import annotations

import logging
import threading

from rclpy.impl.rcutils_logger import RcutilsLogger

from depth_ros import bundle
from depth_ros.engines import choose_engine
from depth_ros.estimator import Estimator
from depth_ros.ros.diagnostics import Diagnostics
from depth_ros.ros.params import NodeParams, default_model


def load_estimator(params: NodeParams, logger: RcutilsLogger, diagnostics: Diagnostics, stop: threading.Event) -> Estimator:
    """Load the bundle and its engine; say which one, and why no faster one. Raises BundleError or EngineError.

    Also later, a build of the engine ends with SystemExit when `stop` is set.
    """
    package = logging.getLogger("depth_ros")
    package.setLevel(logging.INFO)
    package.handlers[:] = [RosLog(logger)]
    model = bundle.load(params.model or default_model())

    def progress(text: str) -> None:
        if stop.is_set():
            raise SystemExit(0)  # as an Exception it would be one engine's failure, and the next one's turn
        logger.info(text)
        diagnostics.engine_loading(model.name, text)

    diagnostics.engine_loading(model.name)
    choice = choose_engine(model, params.engine, params.engine_options(progress))
    for passed in choice.passed_over:
        text = f"engine passed over: {passed}"
        if passed.expected:
            logger.info(text)
        else:
            logger.warning(text)
    try:
        estimator = Estimator(model, choice.engine, params.scale.source)
    except bundle.BundleError:
        choice.engine.close()
        raise
    shape = f"{model.kind}, {model.width}x{model.height}"
    logger.info(f"model '{model.name}' ({shape}) on engine {choice.name}: {choice.engine.describe()}")
    diagnostics.engine_runs(choice)
    return estimator


class RosLog(logging.Handler):
    """Hands what the engines say, which know no ROS, to the node's log."""

    def __init__(self, logger: RcutilsLogger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record with its own severity."""
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
