"""Lifecycle, parameters at run time, and starting and stopping."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import (
    NODE,
    cloud_array,
    handles_signals,
    info_message,
    shared_memory_files,
    unused,
    wait_until,
    wall,
)  # fmt: skip
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.parameter import Parameter

from depth_ros.tools.processes import shared_memory_of


def change(client, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return client.call(ChangeState, "/mono_depth/change_state", request).success


def state(client) -> int:
    return client.call(GetState, "/mono_depth/get_state", GetState.Request()).current_state.id


def set_parameter(client, name: str, value: object):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return client.call(SetParameters, "/mono_depth/set_parameters", request).results[0]


def test_transitions(start, client, make_bundle):
    process = start(NODE, model=make_bundle().path, autostart=False)
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    assert client.node.count_publishers("points") == 0
    client.listen("points")
    for _ in range(2):  # everything is given back, so it works again
        assert change(client, Transition.TRANSITION_CONFIGURE)
        assert state(client) == State.PRIMARY_STATE_INACTIVE
        client.spin_until(lambda: client.node.count_publishers("points") == 1, "points advertised")
        assert client.node.count_subscribers("image") == 0
        assert change(client, Transition.TRANSITION_ACTIVATE)
        client.ask(wall(), info_message(), "points")
        assert change(client, Transition.TRANSITION_DEACTIVATE)
        client.spin_until(lambda: client.node.count_subscribers("image") == 0, "image unsubscribed")
        assert change(client, Transition.TRANSITION_CLEANUP)
        assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
        client.spin_until(lambda: client.node.count_publishers("points") == 0, "points gone")
    assert change(client, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(client) == State.PRIMARY_STATE_FINALIZED
    assert process.stop() == 0
    assert "Traceback" not in process.log()


def test_failed_configure_leaves_the_node_unconfigured(start, client, tmp_path):
    process = start(NODE, model=tmp_path / "nowhere", autostart=False)
    assert not change(client, Transition.TRANSITION_CONFIGURE)
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    assert len(process.lines("ERROR")) == 1
    assert process.stop() == 0


UNEXPECTED = """
import sys
from depth_ros.ros import node

def fails(*arguments):
    raise RuntimeError("nobody expects this")

node.Answering = fails
if __name__ == "__main__":
    sys.exit(node.main())
"""


def test_an_error_that_nobody_expects_stands_in_the_log_when_activation_fails(start, make_bundle, tmp_path):
    (tmp_path / "unexpected_node.py").write_text(UNEXPECTED)
    process = start("unexpected_node", env={"PYTHONPATH": str(tmp_path)}, model=make_bundle().path, engine="onnxruntime")
    assert process.wait() == 1
    assert any("cannot activate: Traceback" in line for line in process.lines("ERROR"))
    assert "RuntimeError: nobody expects this" in process.log()


def test_impossible_transition_does_not_end_the_node(start, client, make_bundle):
    process = start(NODE, model=make_bundle().path, autostart=False)
    assert not change(client, Transition.TRANSITION_ACTIVATE)
    assert state(client) == State.PRIMARY_STATE_UNCONFIGURED
    assert process.stop() == 0


def test_parameters_at_run_time(start, client, make_bundle):
    start(NODE, model=make_bundle().path).wait_ready()
    client.listen("points")
    for name, value, reason in (
        ("engine", "onnxruntime", "read-only"),
        ("cloud_stride", 0, "cloud_stride"),
        ("color_min_depth", 100.0, "color_max_depth is 80.0"),
        ("max_relative_sigma", "high", "DOUBLE"),
    ):
        result = set_parameter(client, name, value)
        assert not result.successful
        assert reason in result.reason

    def cloud() -> np.ndarray:
        return cloud_array(client.ask(wall(), info_message(), "points")[0])

    assert cloud().shape == (32, 64)
    assert set_parameter(client, "cloud_stride", 2).successful
    assert cloud().shape == (16, 32)
    assert set_parameter(client, "cloud_full_resolution", True).successful
    assert cloud().shape == (32, 64)
    assert np.isfinite(cloud()["z"]).all()
    assert set_parameter(client, "max_relative_sigma", 0.03).successful  # the wall's is 0.2 / 5 = 0.04
    assert np.isnan(cloud()["z"]).all()


def test_every_parameter_is_described(start, client, make_bundle):
    from depth_ros.ros.declaration import NAMES

    start(NODE, model=make_bundle().path).wait_ready()
    request = DescribeParameters.Request(names=list(NAMES))
    for descriptor in client.call(DescribeParameters, "/mono_depth/describe_parameters", request).descriptors:
        assert descriptor.description, descriptor.name


def test_start_and_stop_20_times(start, make_bundle):
    model = make_bundle().path
    before, mapped = shared_memory_files(), set()
    for number in range(20):
        process = start(NODE, model=model).wait_ready()
        mapped |= {str(file) for file in shared_memory_of(process.pid)}
        process.interrupt()
        assert process.wait(5) == 0, f"start {number}: {process.log()}"
        assert "Traceback" not in process.log()
    assert mapped
    assert not unused(mapped - before)


LINGERING = """
import time
from depth_ros.ros import node

if __name__ == "__main__":
    node.main()
    print("MAIN ENDED", flush=True)
    time.sleep(60)
"""


def test_nothing_of_the_node_is_left_to_the_end_of_its_process(start, client, make_bundle, tmp_path):
    """The middleware's threads crash now and then where they still run while the process's libraries are taken down."""
    (tmp_path / "lingering_node.py").write_text(LINGERING)
    process = start("lingering_node", env={"PYTHONPATH": str(tmp_path)}, model=make_bundle().path, engine="onnxruntime")
    client.spin_until(lambda: "mono_depth" in client.node.get_node_names(), "node in the graph")
    process.wait_ready().interrupt()
    process.wait_log("MAIN ENDED")
    client.spin_until(lambda: "mono_depth" not in client.node.get_node_names(), "node out of the graph", timeout_s=5.0)
    threads = [task.read_text().strip() for task in Path(f"/proc/{process.pid}/task").glob("*/comm")]
    assert threads, "the process has ended, so this says nothing"
    assert [name for name in threads if name.startswith("dds.")] in ([], ["dds.shm.wdog"])  # the process's own, not a node's


def test_a_crash_of_native_code_stands_in_the_log(start, make_bundle):
    process = start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    os.kill(process.pid, signal.SIGSEGV)
    assert process.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in process.log()
    assert "depth_ros/ros/node.py" in process.log()  # where it was


def test_interrupt_while_it_loads(start, make_bundle):
    """From the moment the process handles SIGTERM itself, SIGINT is a clean stop, whatever it is doing."""
    process = start(NODE, model=make_bundle().path)
    wait_until(lambda: handles_signals(process.pid), "signal handlers")
    process.interrupt()
    assert process.wait(5) == 0
    assert "waiting for images" not in process.log()
    assert "Traceback" not in process.log()


@pytest.mark.parametrize("engine", ["building", "auto"])
@pytest.mark.parametrize("service", [False, True])
def test_interrupt_while_an_engine_is_built(start, client, make_bundle, tmp_path, engine, service):
    """It takes minutes; `auto` must not go on to the next engine, nor a build begin anew."""
    (tmp_path / "building_node.py").write_text(BUILDING_ENGINE)
    settings = {"env": {"PYTHONPATH": str(tmp_path)}, "model": make_bundle().path, "engine": engine, "autostart": not service}
    process = start("building_node", **settings)
    if service:
        setting = client.node.create_client(ChangeState, "/mono_depth/change_state")
        client.spin_until(setting.service_is_ready, "service")
        setting.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        client.spin_until(lambda: "building: 2 %" in process.log(), process.log)
    process.wait_log("building: 2 %")
    process.interrupt()
    assert process.wait(5) == 0
    assert "Traceback" not in process.log()
    assert "passed over" not in process.log()


BUILDING_ENGINE = """
import sys, time
from depth_ros import engines
from depth_ros.ros import node

def load(bundle, options, name):
    for percent in range(100):
        options.progress(f"building: {percent} %")
        time.sleep(0.3)

engines.ENGINES = {"building": "building_node", **engines.ENGINES}
if __name__ == "__main__":
    sys.exit(node.main())
"""

SLOW_ENGINE = """
import sys, time
from depth_ros import engines
from depth_ros.engines import onnxrt
from depth_ros.ros import node

class Slow(onnxrt.OnnxRuntimeEngine):
    def infer(self, image):
        if image.any():  # not the warm-up
            print("ENGINE AT WORK", flush=True)
            time.sleep(60)
        return super().infer(image)
    def close(self):
        print("ENGINE CLOSED", flush=True)

def load(bundle, options, name):
    return Slow(bundle, "cpu", "fp32", 1)

engines.ENGINES["slow"] = "slow_node"
if __name__ == "__main__":
    sys.exit(node.main())
"""


def test_engine_is_not_closed_under_running_work(start, client, make_bundle, tmp_path):
    (tmp_path / "slow_node.py").write_text(SLOW_ENGINE)
    process = start("slow_node", env={"PYTHONPATH": str(tmp_path)}, model=make_bundle().path, engine="slow").wait_ready()
    client.listen("depth/image_rect")
    client.send_until(lambda: "ENGINE AT WORK" in process.log(), wall(), info_message(), "an image in work")
    process.interrupt()
    assert process.wait() == 0, process.log()
    (warning,) = process.lines("WARN")
    assert "the image in work takes more than 5 s" in warning
    assert "ENGINE CLOSED" not in process.log()


def test_an_engine_that_still_works_is_not_given_another_image(start, client, make_bundle, tmp_path):
    (tmp_path / "slow_node.py").write_text(SLOW_ENGINE)
    process = start("slow_node", env={"PYTHONPATH": str(tmp_path)}, model=make_bundle().path, engine="slow").wait_ready()
    client.listen("depth/image_rect")
    client.send_until(lambda: "ENGINE AT WORK" in process.log(), wall(), info_message(), "an image in work")
    assert change(client, Transition.TRANSITION_DEACTIVATE)
    assert not change(client, Transition.TRANSITION_ACTIVATE)
    (error,) = process.lines("ERROR")
    assert "still works on an image" in error
    for transition in (Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert change(client, transition)  # with an engine of its own
