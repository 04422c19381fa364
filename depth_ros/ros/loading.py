"""From the node's parameters to an engine that runs, with what is worth saying on the way."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Generator

import numpy as np
from rclpy.impl.rcutils_logger import RcutilsLogger

from depth_ros import bundle
from depth_ros.engines import Choice, EngineError, choose_engine
from depth_ros.estimator import Estimator
from depth_ros.ros.diagnostics import Diagnostics
from depth_ros.ros.params import NodeParams
from depth_ros.types import InputError

POLL_S = 0.005


def load_estimator(
    params: NodeParams, logger: RcutilsLogger, diagnostics: Diagnostics, stop: threading.Event
) -> tuple[Estimator, Choice]:
    """Load the bundle and its engine; log which one, and why no faster one. Raises BundleError or EngineError.

    Also later, a build of the engine ends with SystemExit when `stop` is set.
    """
    package = logging.getLogger("depth_ros")
    package.setLevel(logging.INFO)
    package.handlers[:] = [RosLog(logger)]
    model = bundle.load(params.model_folder)

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
    return estimator, choice


def warm_up(estimator: Estimator, batch: int) -> None:
    """Run as many black images as will be inferred together; whatever the backend raises becomes an EngineError."""
    model = estimator.bundle
    try:
        estimator.engine.infer(np.zeros((batch, model.height, model.width, 3), np.uint8))
    except Exception as error:  # each backend has classes of its own
        raise EngineError(f"the model does not run: {error}") from error


class Reload:
    """Loads a model on a thread of its own; awaited in a service's callback, it lets the executor go on meanwhile."""

    def __init__(
        self, params: NodeParams, logger: RcutilsLogger, diagnostics: Diagnostics, stop: threading.Event, batch: int
    ) -> None:
        self.loaded: tuple[Estimator, Choice] | None = None  # warmed up
        self.reason = "stopped"  # why there is none
        self._arguments = (params, logger, diagnostics, stop)
        self._batch = batch
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._thread.start()

    def __await__(self) -> Generator[None, None, None]:
        while self._thread.is_alive():
            self._thread.join(POLL_S)  # rclpy asks again and again: this leaves the processor to the loading
            yield

    def _run(self) -> None:
        try:
            estimator, choice = load_estimator(*self._arguments)
            try:
                warm_up(estimator, self._batch)
            except EngineError:
                estimator.engine.close()
                raise
        except (bundle.BundleError, EngineError, InputError) as error:
            self.reason = str(error)
        except Exception:  # on this thread nobody else would hear of it
            self.reason = traceback.format_exc()
        else:
            self.loaded, self.reason = (estimator, choice), ""


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
