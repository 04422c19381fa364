"""The scale of one camera's frames: its source, its smoothing, and what diagnostics say of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from diagnostic_msgs.msg import DiagnosticStatus

from depth_ros.ros.diagnostics import Status
from depth_ros.ros.params import ScaleParams
from depth_ros.ros.scale_inputs import ScaleInput, open_input
from depth_ros.ros.sensor_topics import SensorTopics
from depth_ros.scale import RELATIVE, Measurement, NoMeasurement, Scale, Unchanged
from depth_ros.scale.track import Track
from depth_ros.types import DepthPrediction, Frame, InputError

PERIOD_S = 0.2  # between two tries: the track counts measurements within a second as one
OLD_S = 2.0  # of the last measurement, beyond which diagnostics warn
ODOMETRY_SIGMA = 0.02  # relative, of a driven distance


@dataclass(frozen=True)
class _Moment:
    """How the scale stood at the last frame."""

    scale: Scale | None
    age_s: float
    measured: Measurement | None  # the last one
    reason: str  # why the last try gave none, empty if it did


class Scaling:
    """A depth_ros.scale.Scaler that measures (see there); `prefix` goes before its topics' names, as in 'front/'.

    `kind` is the bundle's; without `topics` no sensor can be listened to. Raises InputError where one cannot be.
    """

    def __init__(self, topics: SensorTopics | None, params: ScaleParams, kind: str, prefix: str = "") -> None:
        self._topics, self._source = topics, params.source
        self._input: ScaleInput | None = None
        self.constant: Scale | None = None
        self._last = _Moment(None, math.inf, None, "no image yet")
        if params.source in ("bundle", "fixed", RELATIVE):
            given = params.source == "fixed"
            self.constant = Scale(params.factor, params.factor_sigma) if given else Scale()
            return
        self._track = Track(params.drift, params.timeout_s, _systematic(params))
        self._tried_s = -math.inf
        self._input = open_input(topics, params, kind, prefix)

    def close(self) -> None:
        """Unsubscribe."""
        if self._input is not None:
            self._input.close()

    def scale_for(self, frame: Frame, prediction: DepthPrediction) -> Scale:
        """Return the scale of a frame, measured anew if it is time. Raises InputError where there is none, or none any more."""
        if self.constant is not None:
            return self.constant
        if frame.stamp_ns == 0 and self._topics is not None:  # some drivers give none
            frame = replace(frame, stamp_ns=self._topics.now_ns())
        time_s = frame.stamp_ns * 1e-9
        self._try(frame, prediction, time_s)
        scale = self._track.scale(time_s)
        self._last = _Moment(scale, self._track.age_s(time_s), self._last.measured, self._last.reason)
        if scale is None:
            raise InputError(f"no scale from {self._source}, so no metres: {self._last.reason}")
        return scale

    def _try(self, frame: Frame, prediction: DepthPrediction, time_s: float) -> None:
        assert self._input is not None
        if 0 <= time_s - self._tried_s < PERIOD_S:
            return
        self._tried_s = time_s
        measured, reason = self._last.measured, ""
        try:
            measured = self._input.measure(frame, prediction)
            if not self._track.update(measured, time_s):
                reason = f"a factor of {measured.scale.factor:.3g} contradicts the ones before"
        except Unchanged as held:
            self._track.hold(time_s)
            reason = str(held)
        except (NoMeasurement, InputError) as error:  # whatever is missing, what is kept away comes first
            reason = next((f"{topic}: {text}" for topic, text in self._incompatible().items()), str(error))
        self._last = _Moment(self._last.scale, self._last.age_s, measured, reason)

    def _incompatible(self) -> dict[str, str]:
        return {} if self._topics is None else self._topics.incompatible()

    def status(self) -> Status:
        """What is in use and how sure it is."""
        if self._source == RELATIVE:
            return Status(DiagnosticStatus.OK, "relative: no metres, only depth/relative is published", {"source": RELATIVE})
        if self.constant is not None:
            factor, sigma = self.constant.factor, self.constant.sigma
            said = {"source": self._source, "factor": f"{factor:.4g}", "relative sigma": f"{sigma:.4f}"}
            return Status(DiagnosticStatus.OK, f"{self._source}: factor {factor:.4g}", said)
        last = self._last
        values: dict[str, object] = {"source": self._source}
        if last.measured:
            values |= {"age of the last measurement [s]": f"{last.age_s:.1f}", "inliers": last.measured.inliers}
            values["samples"] = last.measured.samples
        if last.reason:
            values["last try"] = last.reason
        values |= {f"incompatible QoS on {topic}": text for topic, text in self._incompatible().items()}
        if last.scale is None:
            return Status(DiagnosticStatus.ERROR if last.measured else DiagnosticStatus.WARN, _refused(last), values)
        values |= {"factor": f"{last.scale.factor:.4g}", "relative sigma": f"{last.scale.sigma:.4f}"}
        if last.scale.shift_sigma > 0:
            values |= {"shift [1/m]": f"{last.scale.shift:.4g}", "shift sigma [1/m]": f"{last.scale.shift_sigma:.4g}"}
        known = f"{self._source}: factor {last.scale.factor:.4g}, one sigma {last.scale.sigma:.1%}"
        if last.age_s > OLD_S:
            message = f"{known} and growing, {last.age_s:.1f} s without a measurement: {last.reason}"
            return Status(DiagnosticStatus.WARN, message, values)
        return Status(DiagnosticStatus.OK, known, values)


def _systematic(params: ScaleParams) -> float:
    """What all measurements of a source err by alike, relative."""
    if params.source == "camera_height":
        return params.camera_height_sigma / params.camera_height
    return ODOMETRY_SIGMA if params.source == "odometry" else 0.0


def _refused(last: _Moment) -> str:
    if last.measured is None:
        return f"no scale yet: {last.reason}"
    return f"no scale any more, images are refused: {last.reason}"
