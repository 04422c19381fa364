"""Where jobs run: in processes of this machine, or on a Ray cluster. Both yield the same events."""

from __future__ import annotations

import os
import signal
import socket
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from depth_ros.engines import one_line
from depth_ros.memory import keep_freed_memory
from depth_ros.tools.offline.job import Job, Outcome, Tell, run
from depth_ros.types import InputError

POLL_S = 0.2
STOP_S = 20.0  # for the images in work, before a process is killed
CONNECT_S = 5.0
ADDRESSES = "expected the host:port of a cluster's head, auto or local"


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    seen: int  # images
    expected: int  # images; 0: unknown


Event = Progress | Outcome  # an outcome is a job's last


def run_here(jobs: Sequence[Job], size: int, stop: threading.Event) -> Iterator[tuple[int, Event]]:
    """Yield (number of the job, event), with at most `size` processes at once and a fresh one for each job.

    A process that crashes is the failure of its own job only. After `stop` the images in work are finished and no job begins.
    """
    waiting = deque(enumerate(jobs))
    running: dict[Connection, tuple[int, Any]] = {}
    alarm: threading.Timer | None = None
    while running or waiting:
        if stop.is_set() and alarm is None:
            yield from ((number, Outcome(interrupted=True)) for number, _ in waiting)
            waiting.clear()
            alarm = _end(process for _, process in running.values())
        while waiting and len(running) < size:
            number, job = waiting.popleft()
            pipe, process = _start(job)
            running[pipe] = number, process
        for pipe in (p for p in wait(list(running), POLL_S) if isinstance(p, Connection)):
            number, process = running[pipe]
            event = _receive(pipe, process, stop.is_set())
            if isinstance(event, Outcome):
                del running[pipe]
            yield number, event
    if alarm is not None:
        alarm.cancel()


def _start(job: Job) -> tuple[Connection, Any]:
    """Start a process. It never gets Ctrl-C, which the terminal sends to all of them, but SIGTERM from this one."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, theirs), daemon=True)
    resource_tracker.ensure_running()  # otherwise start() starts it first, which unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return ours, process


def _receive(pipe: Connection, process: Any, stopped: bool) -> Event:
    try:
        event: Event = pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        event = (
            Outcome(interrupted=True) if stopped else Outcome(failure=f"its process ended with {ended}; is there enough memory?")
        )
    if isinstance(event, Outcome):
        process.join()
        pipe.close()
    return event


def _end(processes: Iterator[Any]) -> threading.Timer:
    """Ask the processes to end; kill them if they do not."""
    asked = list(processes)
    for process in asked:
        process.terminate()
    alarm = threading.Timer(STOP_S, lambda: [process.kill() for process in asked])
    alarm.daemon = True
    alarm.start()
    return alarm


def _work(job: Job, pipe: Connection) -> None:
    """In the process of a job."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    keep_freed_memory()
    try:
        pipe.send(_run(job, lambda seen, expected: pipe.send(Progress(seen, expected)), stop))
    except BrokenPipeError:  # the process that wanted it is gone
        os._exit(1)


def _run(job: Job, tell: Tell, stop: threading.Event) -> Outcome:
    try:
        return run(job, tell, stop.is_set)
    except BrokenPipeError:
        raise
    except Exception as error:  # a fault of ours: all of it for whoever mends it, one line for the user
        traceback.print_exc()
        return Outcome(failure=f"{type(error).__name__}: {one_line(error)}")


def run_on_ray(jobs: Sequence[Job], address: str, stop: threading.Event) -> Iterator[tuple[int, Event]]:
    """Yield (number of the job, event) of jobs on the cluster at `address`; "local" starts one on this machine.

    The inputs, the model and the output folder must have the same paths on every machine, and this package be installed there.
    Each job asks for as many CPUs as it has threads, and for a GPU where its engine runs on one. Raises InputError.
    """
    if address not in ("auto", "local"):
        _check_reachable(address)
    ray, queue_class = _import_ray()
    _connect(ray, address)
    try:
        queue = queue_class()
        refs = {}
        for number, job in enumerate(jobs):
            remote = ray.remote(num_cpus=max(1, job.params.threads), num_gpus=_gpus(ray, job), max_retries=0)(_work_on_ray)
            refs[remote.remote(number, job, queue)] = number
        stopping = False
        while refs:
            if stop.is_set() and not stopping:
                stopping = True
                for ref in refs:
                    ray.cancel(ref, force=True)
            done, _ = ray.wait(list(refs), num_returns=1, timeout=POLL_S)
            yield from queue.get_nowait_batch(queue.qsize())
            for ref in done:
                yield refs.pop(ref), _outcome(ray, ref, stopping)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"--ray {address}: nothing answers there ({error}); {ADDRESSES}") from error


def _import_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.util.queue import Queue
    except ModuleNotFoundError as error:
        raise InputError(
            f"--ray needs Ray, which is not installed here ({error}): pip install -r requirements/ray.txt"
        ) from error
    return ray, Queue


def _connect(ray: Any, address: str) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    try:
        if address == "local":
            ray.init(address="local", include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except Exception as error:  # Ray has a class for every way in which a cluster can be missing
        raise InputError(f"--ray {address}: no Ray cluster there ({one_line(error)}); {ADDRESSES}") from error


def _gpus(ray: Any, job: Job) -> int:
    """Ray hides GPUs from a job that asks for none."""
    engine = job.params.engine
    return int(engine.startswith(("tensorrt", "onnxruntime_cuda")) or (engine == "auto" and "GPU" in ray.cluster_resources()))


def _work_on_ray(number: int, job: Job, queue: Any) -> Outcome:
    """On a machine of the cluster."""
    keep_freed_memory()
    never = threading.Event()
    return _run(job, lambda seen, expected: queue.actor.put_nowait.remote((number, Progress(seen, expected))), never)


def _outcome(ray: Any, ref: Any, stopping: bool) -> Outcome:
    try:
        outcome: Outcome = ray.get(ref)
    except ray.exceptions.RayError as error:
        return Outcome(interrupted=True) if stopping else Outcome(failure=f"Ray lost it: {one_line(error)}")
    return outcome
