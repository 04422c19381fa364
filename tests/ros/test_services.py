"""Pause and reload: neither loses an image that could be answered."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from harness import NODE, depth_array, info_message, wall
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from depth_ros import bundle


def pause(client, value: bool) -> SetBool.Response:
    return client.call(SetBool, "/mono_depth/pause", SetBool.Request(data=value))


def reload(client) -> Trigger.Response:
    return client.call(Trigger, "/mono_depth/reload", Trigger.Request())


def make_nearer(model, folder):
    """The same model in another folder, whose depth is red / 20 in place of red / 10."""
    if folder != model.path:
        shutil.copytree(model.path, folder)
    graph = onnx.load(folder / "model.onnx")
    for initialiser in graph.graph.initializer:
        if initialiser.name == "ten":
            initialiser.CopyFrom(numpy_helper.from_array(np.float32(20), "ten"))
    onnx.save(graph, folder / "model.onnx")
    return bundle.save(bundle.ModelBundle(**{**vars(model), "name": "nearer"}), folder)


def test_a_paused_node_answers_nothing_and_goes_on_when_told(start, client, make_bundle):
    node = start(NODE, model=make_bundle().path, report_period_s=0.5).wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")
    assert pause(client, True).success
    client.received.clear()
    client.send_until(lambda: "images/s in, 0.0 answered/s" in node.log(), wall(), info_message(), "a report of no answers")
    assert not client.received["depth/image_rect"]
    assert pause(client, False).message == "running"
    client.ask(wall(), info_message(), "depth/image_rect")


def test_the_model_is_loaded_again_from_its_folder(start, client, make_bundle):
    model = make_bundle()
    start(NODE, model=model.path).wait_ready()
    client.listen("depth/image_rect")
    (depth,) = client.ask(wall(), info_message(), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)
    make_nearer(model, model.path)
    answer = reload(client)
    assert answer.success, answer.message
    assert "'nearer' runs" in answer.message
    (depth,) = client.ask(wall(), info_message(), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth), 2.5, rtol=1e-6)


def test_another_model_is_taken_at_reload_and_no_image_is_lost(start, client, make_bundle, tmp_path):
    """Images keep coming, slower than the node answers: each has its answer, from the old model or from the new one."""
    model = make_bundle()
    other = make_nearer(model, tmp_path / "nearer")
    start(NODE, model=model.path).wait_ready()
    client.listen("depth/image_rect", qos=100)
    client.ask(wall(), info_message(), "depth/image_rect")
    request = SetParameters.Request(parameters=[Parameter("model", value=str(other.path)).to_parameter_msg()])
    assert client.call(SetParameters, "/mono_depth/set_parameters", request).results[0].successful
    service = client.node.create_client(Trigger, "/mono_depth/reload")
    client.spin_until(service.service_is_ready, "service")
    client.sent.clear()
    client.received.clear()
    future, done_after = service.call_async(Trigger.Request()), 0
    while not future.done() or done_after < 5:  # and some after it
        done_after += future.done()
        sent = client.send(wall(), info_message())
        client.spin_until(lambda s=sent: s in client.received["depth/image_rect"], "answer to every image")
    assert future.result().success
    depths = [float(depth_array(client.received["depth/image_rect"][s])[0, 0]) for s in client.sent]
    assert set(np.round(depths, 3)) <= {5.0, 2.5}
    assert depths == sorted(depths, reverse=True)  # never back to the old one
    assert depths[-1] == pytest.approx(2.5)


SLOW_LOADING = """
import sys, time
from depth_ros import engines
from depth_ros.engines import onnxrt
from depth_ros.ros import node

loads = []

def load(bundle, options, name):
    loads.append(bundle)
    if len(loads) > 1:
        print("LOADING", flush=True)
        time.sleep(3)
        print("LOADED", flush=True)
    return onnxrt.load(bundle, options, "onnxruntime")

engines.ENGINES["slow"] = "slow_loading_node"
if __name__ == "__main__":
    sys.modules["slow_loading_node"] = sys.modules["__main__"]
    sys.exit(node.main())
"""


def test_the_old_model_answers_while_the_new_one_takes_its_time(start, client, make_bundle, tmp_path):
    (tmp_path / "slow_loading_node.py").write_text(SLOW_LOADING)
    settings = {"env": {"PYTHONPATH": str(tmp_path)}, "model": make_bundle().path, "engine": "slow"}
    node = start("slow_loading_node", **settings).wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")
    service = client.node.create_client(Trigger, "/mono_depth/reload")
    client.spin_until(service.service_is_ready, "service")
    futures = [service.call_async(Trigger.Request()) for _ in range(2)]
    client.spin_until(lambda: "LOADING" in node.log(), "start of the loading")
    for _ in range(3):
        client.ask(wall(), info_message(), "depth/image_rect")
    assert "LOADED" not in node.log()
    client.spin_until(lambda: all(future.done() for future in futures), "both answers")  # one after the other
    assert all(future.result().success for future in futures)


def test_a_model_that_cannot_be_loaded_leaves_the_old_one_at_work(start, client, make_bundle):
    model = make_bundle()
    node = start(NODE, model=model.path).wait_ready()
    model.graph_path.write_bytes(b"no graph")
    answer = reload(client)
    assert not answer.success
    assert "sha256" in answer.message
    assert any("cannot reload" in line for line in node.lines("ERROR"))
    client.listen("depth/image_rect")
    (depth,) = client.ask(wall(), info_message(), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)


def test_a_model_that_is_read_but_does_not_run_leaves_the_old_one_at_work_and_named(start, client, make_bundle, states, tmp_path):
    """Its graph asks for a row that is not there, which only running it shows."""
    model = make_bundle()
    other = make_nearer(model, tmp_path / "nearer")
    graph = onnx.load(other.graph_path)
    for initialiser in graph.graph.initializer:
        if initialiser.name == "red":
            initialiser.CopyFrom(numpy_helper.from_array(np.int64(9), "red"))
    onnx.save(graph, other.graph_path)
    other = bundle.save(other, other.path)
    start(NODE, model=model.path, engine="onnxruntime").wait_ready()
    request = SetParameters.Request(parameters=[Parameter("model", value=str(other.path)).to_parameter_msg()])
    assert client.call(SetParameters, "/mono_depth/set_parameters", request).results[0].successful
    answer = reload(client)
    assert not answer.success
    assert "does not run" in answer.message
    status = states.wait("mono_depth: engine", DiagnosticStatus.WARN, "the old one goes on")
    assert (status.hardware_id, {v.key: v.value for v in status.values}["model"]) == ("probe", "probe")
    client.listen("depth/image_rect")
    (depth,) = client.ask(wall(), info_message(), "depth/image_rect")
    np.testing.assert_allclose(depth_array(depth), 5.0, rtol=1e-6)


def test_services_of_a_node_that_is_not_active_say_so(start, client, make_bundle):
    start(NODE, model=make_bundle().path, autostart=False)
    assert "not configured" in reload(client).message
    assert "activate it" in pause(client, True).message
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    assert client.call(ChangeState, "/mono_depth/change_state", request).success
    assert reload(client).success  # configured, not active: there is a model to load again
