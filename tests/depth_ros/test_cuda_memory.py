"""The contract of CUDA memory, over every package that works here, and always over the stand-in in host memory."""

import importlib
import itertools
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from simulated_cuda import HostDriver, Misuse

from depth_ros.engines import EngineError, MissingBackendError
from depth_ros.engines.cuda_memory import ALIGNMENT, DRIVERS, Memory, bindings, open_memory

EXECUTION = {"late": (), "first_early": (0,), "second_early": (1,), "early": (0, 1)}  # of the simulated streams


def opened(name):
    return Memory(HostDriver(EXECUTION[name.removeprefix("host_")])) if name.startswith("host") else open_memory(name)


def why_not(name):
    """Return why the package cannot be used here, None where it can."""
    try:
        open_memory(name).close()
    except EngineError as error:
        return error
    return None


WHY_NOT = {name: why_not(name) for name in DRIVERS}
USABLE = [name for name in DRIVERS if WHY_NOT[name] is None]


@pytest.fixture(params=[*(f"host_{order}" for order in EXECUTION), *USABLE])
def backend(request):
    return request.param


@pytest.fixture
def memory(backend):
    memory = opened(backend)
    with memory.current():
        yield memory
    memory.close()


@pytest.mark.parametrize("name", [name for name in DRIVERS if name not in USABLE])
def test_a_package_that_does_not_work_here_says_that_it_or_the_driver_is_missing(name):
    reason = str(WHY_NOT[name])
    assert isinstance(WHY_NOT[name], MissingBackendError) or "pip install" in reason, f"it is here, but does not run: {reason}"
    assert "\n" not in reason
    pytest.skip(f"{name}: {reason}")


def test_every_name_of_cuda_that_is_used_exists():
    cuda = pytest.importorskip("cuda.bindings.runtime")
    names = set(re.findall(r"\bcuda[A-Z]\w+", Path(bindings.__file__).read_text()))
    known = {*dir(cuda), *(name for kind in vars(cuda).values() for name in getattr(kind, "__members__", ()))}
    assert {"cudaMemcpyAsync", "cudaGraphLaunch", "cudaEventBlockingSync"} <= names
    assert names - known == set()


@pytest.mark.skipif("cuda_bindings" in USABLE, reason="the calls would reach the driver with handles made up")
def test_calls_of_cuda_bindings_have_arguments_that_it_takes():
    cuda = pytest.importorskip("cuda.bindings.runtime")
    driver, host = bindings.open_driver(), np.zeros(10, np.uint8)
    stream, event = ("cudaStreamDestroy", cuda.cudaStream_t(1)), ("cudaEventDestroy", cuda.cudaEvent_t(2))
    for call in (
        driver.open,
        driver.device_name,
        driver.compute_capability,
        lambda: driver.allocate(10),
        lambda: driver.allocate_pinned(10),
        driver.create_stream,
        driver.create_event,
        lambda: driver.upload(1024, host, stream),
        lambda: driver.download(host, 1024, stream),
        lambda: driver.record(event, stream),
        lambda: driver.wait(stream, event),
        lambda: driver.synchronise(stream),
        lambda: driver.synchronise(event),
        lambda: driver.capture(stream, lambda: None),
        lambda: driver.launch(("cudaGraphExecDestroy", cuda.cudaGraphExec_t(3)), stream),
        *(lambda handle=handle: driver.free(handle) for handle in (stream, event, ("cudaFree", 1024), ("cudaFreeHost", 1024))),
        lambda: driver._call("cudaGraphInstantiate", cuda.cudaGraph_t(4), 0),
        lambda: driver._call("cudaGraphDestroy", cuda.cudaGraph_t(4)),
        lambda: driver._call("cudaStreamEndCapture", stream[1]),
    ):
        with pytest.raises(EngineError, match=r"CUDA: cuda\w+ failed: cudaError\w+ \("):
            call()


def random_bytes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)


def test_bytes_come_back_as_they_went(memory):
    source, back = memory.pinned((3, 5, 7), np.float32), memory.pinned((3, 5, 7), np.float32)
    source.array[...] = np.linspace(-1e30, 1e-30, 105).reshape(3, 5, 7)
    device, stream = memory.device(source.array.nbytes), memory.stream()
    memory.upload(device, source.array, stream)
    memory.download(back.array, device, stream)
    memory.synchronise(stream)
    np.testing.assert_array_equal(back.array, source.array)


def test_a_part_is_fetched_from_where_it_lies(memory):
    source, back = memory.pinned((4096,), np.uint8), memory.pinned((16,), np.uint8)
    source.array[...] = random_bytes(4096)
    device, stream = memory.device(4096), memory.stream()
    memory.upload(device, source.array, stream)
    memory.download(back.array, device, stream, offset=1000)
    memory.synchronise(stream)
    np.testing.assert_array_equal(back.array, random_bytes(4096)[1000:1016])


def test_copies_in_one_stream_keep_their_order(memory):
    sources = [memory.pinned((1 << 16,), np.uint8) for _ in range(8)]
    device, stream, back = memory.device(1 << 16), memory.stream(), memory.pinned((8, 1 << 16), np.uint8)
    for value, source in enumerate(sources):
        source.array[...] = value
        memory.upload(device, source.array, stream)
        memory.download(back.array[value], device, stream)
    memory.synchronise(stream)
    np.testing.assert_array_equal(back.array, np.repeat(np.arange(8, dtype=np.uint8)[:, None], 1 << 16, axis=1))


def test_a_stream_waits_for_an_event_of_another_one(memory):
    source, back = memory.pinned((1 << 20,), np.uint8), memory.pinned((1 << 20,), np.uint8)
    device, sending, fetching, sent = memory.device(1 << 20), memory.stream(), memory.stream(), memory.event()
    assert sending.handle != fetching.handle
    for seed in range(3):
        source.array[...] = random_bytes(1 << 20, seed)
        memory.upload(device, source.array, sending)
        memory.record(sent, sending)
        memory.wait(fetching, sent)
        memory.download(back.array, device, fetching)
        memory.synchronise(fetching)
        np.testing.assert_array_equal(back.array, random_bytes(1 << 20, seed))


def test_an_event_is_waited_for_on_the_host(memory):
    source, back = memory.pinned((1000,), np.uint8), memory.pinned((1000,), np.uint8)
    source.array[...] = random_bytes(1000)
    device, stream, done = memory.device(1000), memory.stream(), memory.event()
    memory.synchronise(done)  # never recorded: nothing to wait for
    memory.upload(device, source.array, stream)
    memory.download(back.array, device, stream)
    memory.record(done, stream)
    memory.synchronise(done)
    np.testing.assert_array_equal(back.array, random_bytes(1000))


def test_addresses_are_aligned_and_apart(memory):
    buffers = [memory.device(1000) for _ in range(4)]
    spans = sorted((buffer.address, buffer.address + buffer.nbytes) for buffer in buffers)
    assert all(begin % ALIGNMENT == 0 for begin, _ in spans)
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    for dtype in (np.uint8, np.float32, np.int64):
        pinned = memory.pinned((3, 5), dtype).array
        assert (pinned.shape, pinned.dtype, pinned.flags.c_contiguous) == ((3, 5), np.dtype(dtype), True)
        assert pinned.ctypes.data % 64 == 0


def test_a_graph_repeats_what_was_captured_with_what_lies_there_then(memory):
    source, back = memory.pinned((1000,), np.uint8), memory.pinned((1000,), np.uint8)
    device, stream = memory.device(1000), memory.stream()
    source.array[...] = 1
    memory.upload(device, source.array, stream)
    memory.synchronise(stream)
    graph = memory.capture(stream, lambda: memory.download(back.array, device, stream))
    if graph is None:
        pytest.skip(f"{memory.name} has no CUDA graphs")
    for value in (7, 9):
        source.array[...] = value
        memory.upload(device, source.array, stream)
        memory.launch(graph, stream)
        memory.synchronise(stream)
        assert (back.array == value).all()
    memory.free(graph)


def test_work_that_fails_while_it_is_captured_leaves_a_stream_that_works(memory):
    stream, source, back = memory.stream(), memory.pinned((10,), np.uint8), memory.pinned((10,), np.uint8)
    device = memory.device(10)

    def fail():
        raise KeyError("inside")

    if memory.name != "pycuda":
        with pytest.raises(KeyError, match="inside"):
            memory.capture(stream, fail)
    source.array[...] = 5
    memory.upload(device, source.array, stream)
    memory.download(back.array, device, stream)
    memory.synchronise(stream)
    assert (back.array == 5).all()


def test_the_device_is_named(memory):
    assert memory.device_name().strip("\0 ")
    assert memory.compute_capability() >= (5, 0)


def test_more_memory_than_there_is_is_an_error_and_the_rest_works_on(memory):
    with pytest.raises(EngineError, match=r"CUDA: .*out of memory"):
        memory.device(1 << 50)
    stream, source = memory.stream(), memory.pinned((10,), np.uint8)
    memory.upload(memory.device(10), source.array, stream)
    memory.synchronise(stream)


def test_copies_that_do_not_fit_are_refused(memory):
    device, stream, host = memory.device(100), memory.stream(), memory.pinned((200,), np.uint8)
    with pytest.raises(EngineError, match="200 bytes at 0 does not fit into device memory of 100 bytes"):
        memory.upload(device, host.array, stream)
    with pytest.raises(EngineError, match="50 bytes at 51 does not fit"):
        memory.download(host.array[:50], device, stream, offset=51)
    with pytest.raises(EngineError, match="not contiguous"):
        memory.upload(device, host.array[::2], stream)


def test_another_thread_can_use_the_memory(memory):
    source, back, errors = memory.pinned((10,), np.uint8), memory.pinned((10,), np.uint8), []
    source.array[...] = 3

    def work():
        try:
            with memory.current():
                device, stream = memory.device(10), memory.stream()
                memory.upload(device, source.array, stream)
                memory.download(back.array, device, stream)
                memory.synchronise(stream)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert (back.array == 3).all()


def test_closing_twice_is_allowed_and_use_afterwards_is_an_error(backend):
    memory = opened(backend)
    with memory.current():
        device, stream, event, host = memory.device(10), memory.stream(), memory.event(), memory.pinned((10,), np.uint8)
        memory.upload(device, host.array, stream)
    memory.close()
    memory.close()
    for use in (
        lambda: memory.device(10),
        lambda: memory.pinned((10,), np.uint8),
        memory.stream,
        memory.event,
        memory.current,
        memory.device_name,
        lambda: memory.upload(device, np.zeros(10, np.uint8), stream),
        lambda: memory.download(np.zeros(10, np.uint8), device, stream),
        lambda: memory.record(event, stream),
        lambda: memory.wait(stream, event),
        lambda: memory.synchronise(stream),
    ):
        with pytest.raises(EngineError, match="closed"):
            use()


def test_close_frees_everything_and_waits_for_what_is_under_way():
    driver = HostDriver()
    memory = Memory(driver)
    with memory.current():
        host, device, stream = memory.pinned((10,), np.uint8), memory.device(10), memory.stream()
        memory.capture(stream, lambda: memory.upload(device, host.array, stream))
        memory.upload(device, host.array, stream)
    memory.close()
    assert driver.live == []
    assert driver.depth == 0


def test_close_goes_on_after_a_failure_and_reports_it():
    class Broken(HostDriver):
        def synchronise(self, handle):
            raise EngineError("CUDA: the device is lost")

    driver = Broken()
    memory = Memory(driver)
    with memory.current():
        memory.device(10)
        memory.stream()
    with pytest.raises(EngineError, match="lost"):
        memory.close()
    assert driver.live == []


def test_no_device_is_said():
    with pytest.raises(MissingBackendError, match="no GPU"):
        Memory(HostDriver(devices=0))


def test_unknown_package_lists_the_known_ones():
    with pytest.raises(EngineError, match="memory 'cupy' is unknown; expected auto or one of cuda_bindings, pycuda"):
        open_memory("cupy")


@pytest.mark.parametrize("name", ["auto", *DRIVERS])
def test_without_the_packages_what_to_install_is_said(name, monkeypatch):
    real = importlib.import_module

    def absent(module, *rest):
        if module.split(".")[0] in ("cuda", "pycuda"):
            raise ModuleNotFoundError(f"No module named '{module}'", name=module)
        return real(module, *rest)

    for driver in DRIVERS.values():
        monkeypatch.setattr(real(driver), "import_module", absent)
    with pytest.raises(EngineError, match=r"pip install .*(cuda-bindings|pycuda)") as caught:
        open_memory(name)
    assert not isinstance(caught.value, MissingBackendError)  # who has TensorRT and a GPU must hear of it


def test_a_machine_without_a_driver_says_so():
    if USABLE:
        pytest.skip("this machine has a CUDA driver")
    code = "from depth_ros.engines.cuda_memory import open_memory; open_memory()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1  # an exception, not a crash
    assert "MissingBackendError: no CUDA driver: " in done.stderr or "pip install cuda-bindings" in done.stderr


class TestTheStandIn:
    """That the stand-in finds what it is there to find."""

    def setup_method(self):
        self.memory = Memory(HostDriver())
        self.current = self.memory.current()
        self.current.__enter__()
        self.host, self.device = self.memory.pinned((10,), np.uint8), self.memory.device(10)
        self.streams = self.memory.stream(), self.memory.stream()

    def test_reading_without_waiting_for_the_other_stream(self):
        self.memory.upload(self.device, self.host.array, self.streams[0])
        self.memory.download(self.memory.pinned((10,), np.uint8).array, self.device, self.streams[1])
        with pytest.raises(Misuse, match="download overtakes the upload"):
            self.memory.synchronise(self.streams[1])

    def test_writing_while_the_other_stream_still_reads(self):
        self.memory.download(self.memory.pinned((10,), np.uint8).array, self.device, self.streams[0])
        self.memory.upload(self.device, self.host.array, self.streams[1])
        with pytest.raises(Misuse, match="upload overtakes the download"):
            self.memory.synchronise(self.streams[1])

    def test_changing_what_is_being_sent(self):
        self.host.array[...] = 1
        self.memory.upload(self.device, self.host.array, self.streams[0])
        self.host.array[...] = 2
        with pytest.raises(Misuse, match="changed before it was sent"):
            self.memory.synchronise(self.streams[0])

    def test_reading_what_has_not_arrived(self):
        self.host.array[...] = 1
        self.memory.upload(self.device, self.host.array, self.streams[0])
        back = self.memory.pinned((10,), np.uint8).array
        self.memory.download(back, self.device, self.streams[0])
        assert (back != 1).all()

    def test_working_without_a_context(self):
        self.current.__exit__(None, None, None)
        with pytest.raises(Misuse, match="no context"):
            self.memory.device(10)
