"""One recording answered as the node would answer it, into a folder that has its name only when it is finished."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.calibration import load_calibration
from depth_ros.engines import EngineError, EngineOptions, choose_engine, one_line
from depth_ros.estimator import Estimator
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.params import NodeParams
from depth_ros.ros.scaling import Scaling
from depth_ros.ros.sensor_topics import TOPICS, BagTopics
from depth_ros.ros.sources import FRAME_ID, Source, SourceImage, is_bag, open_source
from depth_ros.tools.offline import manifest
from depth_ros.tools.offline.writers import Answered, Writer, open_writer
from depth_ros.tools.record import RecordingError
from depth_ros.types import CameraModel, InputError

if TYPE_CHECKING:
    from depth_ros.ros.bag import Bag

Tell = Callable[[int, int], None]  # images seen, images expected (0: unknown)
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """What to make of one recording. Everything in it can be sent to another process or machine."""

    source: Path  # video, folder of images or bag
    out: Path  # folder of the results, which does not exist until they are complete
    formats: tuple[str, ...]  # of writers.FORMATS
    params: NodeParams  # with `model` named, and `threads`
    topic: str = ""  # of a bag with several
    calibration: Path | None = None  # instead of the bag's camera_info
    sensors: Mapping[str, str] = field(default_factory=dict)  # full names of the topics that the scale is measured from

    @property
    def partial(self) -> Path:
        """Folder of results that are not complete yet."""
        return self.out.with_name(f".{self.out.name}.partial")

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on the images before it."""
        return self.params.temporal_filter or self.params.scale.source not in ("bundle", "fixed")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    answered: int = 0  # images whose results are there
    kept: int = 0  # of them, those whose results were there before
    unreadable: int = 0
    refused: int = 0
    refusal: str = ""  # why the first one was
    warnings: tuple[str, ...] = ()
    failure: str = ""  # in one line
    interrupted: bool = False
    finished_before: bool = False
    ended_early: str = ""  # why a damaged recording could not be read to its end

    @property
    def good(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.failure or self.interrupted or self.ended_early)


@dataclass
class _Counts:
    seen: int = 0
    answered: int = 0
    kept: int = 0
    refused: int = 0
    refusal: str = ""


def run(job: Job, tell: Tell, stop: Stop) -> Outcome:
    """Do the job until its end or until `stop` says so, after each image. What goes wrong is in the outcome, not raised."""
    try:
        return _run(job, tell, stop)
    except BrokenPipeError:
        raise  # nobody is left to tell
    except (BundleError, EngineError, InputError, RecordingError, OSError) as error:
        return Outcome(failure=one_line(error))


def _run(job: Job, tell: Tell, stop: Stop) -> Outcome:
    model = bundle.load(job.params.model)
    camera = load_calibration(job.calibration) if job.calibration else None
    _check_source(job, camera)
    facts = manifest.describe(job.source, job.topic, camera, model, job.params, job.formats, job.sensors)
    for folder in (job.out, job.partial):
        found = manifest.read(folder)
        if found is not None:
            manifest.check_same(folder, found, facts)
        if found is not None and folder == job.out:
            return Outcome(**found["outcome"], finished_before=True)
    source = open_source(job.source, job.topic)
    if job.remembers:  # what an image is answered with depends on those before, so none can be left out
        shutil.rmtree(job.partial, ignore_errors=True)
    job.partial.mkdir(parents=True, exist_ok=True)
    with _alone(job.partial), _open_answerer(model, job, source) as (answerer, engine, warnings):
        manifest.write(job.partial, facts)
        outcome = _answer_all(job, source, camera, answerer, tell, stop)
    if outcome.interrupted:
        return outcome
    if not outcome.answered:
        shutil.rmtree(job.partial)
        return replace(outcome, failure=_nothing(outcome))
    outcome = replace(outcome, warnings=tuple(warnings))
    kept = {name: getattr(outcome, name) for name in ("answered", "unreadable", "refused", "refusal", "ended_early")}
    manifest.write(job.partial, facts | {"engine": engine, "outcome": kept})
    job.partial.replace(job.out)
    return outcome


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder, until the end of this process at the latest. Raises InputError if one is in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EBADF:  # NFS, which locks no folders: there it is up to the user
                raise InputError(f"{folder}: another run is at work here ({error.strerror}); let it end first") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _open_answerer(model: ModelBundle, job: Job, source: Source) -> Iterator[tuple[CameraAnswerer, str, list[str]]]:
    """Open the engine; give what answers, what runs in words, and a list that warnings will be in.

    Raises EngineError, and InputError where the scale's sensor cannot be in this recording.
    """
    params = job.params
    options: EngineOptions = params.engine_options(lambda text: None)
    if options.threads:
        cv2.setNumThreads(options.threads)
    warnings: list[str] = []
    sensors = _sensors(job, source, warnings.append)
    with (
        closing(choose_engine(model, params.engine, options).engine) as engine,
        closing(Scaling(sensors, params.scale, model.kind)) as scaling,
        closing(CameraAnswerer(Estimator(model, engine, params.scale.source), warnings.append, scaling)) as answerer,
    ):
        yield answerer, engine.describe(), warnings


def _check_source(job: Job, camera: CameraModel | None) -> None:
    """Raise InputError, before hours of video, for an input that is not there, or is no bag where one is needed."""
    if not job.source.exists():
        open_source(job.source)  # says so
    if is_bag(job.source):
        return
    chosen = job.params.scale.source
    if chosen in TOPICS:
        raise InputError(f"{job.source}: scale.source is '{chosen}', whose sensor only a bag can hold; expected a ROS 2 bag")
    if camera is None:
        raise InputError(
            f"{job.source}: a video or folder holds no camera_info; give --camera-info <ROS camera calibration YAML>"
        )


def _sensors(job: Job, source: Source, warn: Callable[[str], None]) -> BagTopics | None:
    """Return the topics that the scale is measured from; None where it needs none."""
    if job.params.scale.source not in TOPICS:
        return None
    return BagTopics(cast("Bag", source), job.sensors, warn)


def _answer_all(
    job: Job, source: Source, camera: CameraModel | None, answerer: CameraAnswerer, tell: Tell, stop: Stop
) -> Outcome:
    counts, ended_early, stems = _Counts(), "", _Stems()
    interrupted = False
    with ExitStack() as stack:
        writers = [open_writer(name, job.partial, source.rate_hz, job.params) for name in job.formats]
        for writer in writers:
            stack.callback(writer.close)
        tell(0, source.count)
        images = iter(source)
        while True:
            if interrupted := stop():
                break
            try:
                item = next(images, None)
            except InputError as error:
                ended_early = one_line(error)
                break
            if item is None:
                break
            _answer(job, item, stems.of(item), camera, answerer, writers, counts)
            tell(counts.seen + source.skipped, source.count)
    if counts.answered and not interrupted:
        for writer in writers:
            writer.finish()
    return Outcome(
        answered=counts.answered,
        kept=counts.kept,
        unreadable=source.skipped,
        refused=counts.refused,
        refusal=counts.refusal,
        interrupted=interrupted,
        ended_early=ended_early,
    )


def _answer(
    job: Job, item: SourceImage, stem: str, camera: CameraModel | None, answerer: CameraAnswerer,
    writers: Sequence[Writer], counts: _Counts,
) -> None:  # fmt: skip
    """Answer one image for the writers that have none yet. A bad image is counted, as in the node; a bad disk is raised."""
    counts.seen += 1
    waiting = [writer for writer in writers if not writer.has(stem)]
    if not waiting:
        counts.answered, counts.kept = counts.answered + 1, counts.kept + 1
        return
    try:
        info = item.info(camera, job.calibration or "")
        header = item.image.header
        header.frame_id = header.frame_id or FRAME_ID
        info.header = header
        frame = answerer.frame(item.image, info, job.params)
        full, cloud = any(writer.full for writer in waiting), any(writer.cloud for writer in waiting)
        answer = answerer.answer(
            frame, replace(job.params.wish(full, cloud), small=False)
        )  # files are at the camera's resolution
    except InputError as error:
        counts.refused += 1
        counts.refusal = counts.refusal or one_line(error)
        return
    for writer in waiting:
        writer.write(Answered(stem, item.time_s, item.image, info, frame, answer))
    counts.answered += 1


class _Stems:
    """Names files after images; a name that comes again (a.jpg, a.png) gets the image's number."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._number = -1

    def of(self, item: SourceImage) -> str:
        self._number += 1
        stem = Path(item.name).stem
        if stem in self._used:
            stem = f"{stem}_{self._number:06d}"
        self._used.add(stem)
        return stem


def _nothing(outcome: Outcome) -> str:
    if outcome.ended_early:
        return outcome.ended_early
    reason = f": {outcome.refusal}" if outcome.refusal else ""
    return f"no image could be answered ({outcome.unreadable} unreadable, {outcome.refused} refused{reason})"
