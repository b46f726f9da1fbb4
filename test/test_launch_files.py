"""The launch files: the command line of every node, and the nodes of the demo with these arguments.

See launch_reader for what replaces launch and launch_ros, which have no wheels.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from multimodal_perception.ros.parameters import NodeConfig, entries
from test.launch_reader import LaunchedNode, read_launch_file

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
PERCEPTION, REPLAY, DEMO = (
    LAUNCH / f"{name}.launch.py" for name in ("perception", "replay", "demo")
)


def start(node: LaunchedNode, folder: Path) -> subprocess.Popen[bytes]:
    """Start the installed program of a node, as launch does."""
    folder.mkdir()
    program = Path(sys.executable).parent / node.executable
    command = [str(program), *node.arguments, *node.ros_arguments(folder)]
    return subprocess.Popen(command, env={**os.environ, **node.environment})


def parameters_of(node: LaunchedNode) -> dict[str, Any]:
    """The parameters that a launch file sets itself."""
    return {k: v for p in node.parameters if not isinstance(p, str) for k, v in p.items()}


def test_every_launch_file_is_read() -> None:
    assert {PERCEPTION, REPLAY, DEMO} == set(LAUNCH.glob("*.py"))


def test_the_node_gets_its_parameter_file_and_then_the_launch_arguments(tmp_path: Path) -> None:
    (node,), _ = read_launch_file(PERCEPTION, rig="car", detector="geometric", use_sim_time="true")
    defaults = ROOT / "config/perception.yaml"
    assert node.ros_arguments(tmp_path) == [
        *("--ros-args", "-r", "__node:=perception", "-r", "__ns:=/"),
        *("--params-file", str(defaults), "--params-file", str(tmp_path / "launch_params_1.yaml")),
        *("-r", "/tf:=tf", "-r", "/tf_static:=tf_static"),
    ]
    written = yaml.safe_load((tmp_path / "launch_params_1.yaml").read_text())
    assert written == {
        "/perception": {
            "ros__parameters": {
                "rig": "car",
                "use_sim_time": True,
                "autostart": True,
                "pipeline.detector": "geometric",
            }
        }
    }
    known = {entry.name for entry in entries(NodeConfig())} | {"use_sim_time"}
    assert parameters_of(node).keys() <= known
    assert (node.package, node.executable) == ("multimodal_perception", "perception_node")
    assert node.is_lifecycle


def test_without_a_detector_the_parameter_file_decides() -> None:
    (node,), _ = read_launch_file(PERCEPTION, rig="car", parameters="/robot/perception.yaml")
    assert "pipeline.detector" not in parameters_of(node)
    assert node.parameters[0] == "/robot/perception.yaml"


@pytest.mark.parametrize("rig", ["1", "1.5", "yes", "null", "~/my rig.yaml"])
def test_the_rig_stays_a_text(rig: str) -> None:
    (node,), _ = read_launch_file(PERCEPTION, rig=rig)
    assert parameters_of(node)["rig"] == rig


def test_the_rig_is_required() -> None:
    with pytest.raises(AssertionError, match="rig is required"):
        read_launch_file(PERCEPTION)


@pytest.mark.parametrize("namespaced", [True, False])
def test_a_namespace_applies_to_all_nodes_and_to_their_transforms(
    namespaced: bool, tmp_path: Path
) -> None:
    arguments = {"namespace": "robot_1", "namespaced_tf": str(namespaced).lower()}
    nodes, _ = read_launch_file(PERCEPTION, rig="car", rviz="true", **arguments)
    assert [n.executable for n in nodes] == ["perception_node", "rviz2"]
    for node in nodes:
        line = node.ros_arguments(tmp_path)
        assert "__ns:=/robot_1" in line
        assert ("/tf:=tf" in line) == ("/tf_static:=tf_static" in line) == namespaced


def test_rviz_gets_a_profile_that_exists_and_the_time_of_the_node() -> None:
    nodes, _ = read_launch_file(PERCEPTION, rig="car", rviz="true", use_sim_time="true")
    rviz = nodes[1]
    assert rviz.arguments[0] == "-d" and Path(rviz.arguments[1]).is_file()
    assert parameters_of(rviz)["use_sim_time"] is True


def test_a_dds_profile_of_the_user_has_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "FASTDDS_DEFAULT_PROFILES_FILE"
    monkeypatch.delenv(variable)
    (node,), _ = read_launch_file(PERCEPTION, rig="car")
    assert Path(node.environment[variable]) == ROOT / "config/dds/fastdds_shm.xml"
    monkeypatch.setenv(variable, "/robot/dds.xml")
    (node,), _ = read_launch_file(PERCEPTION, rig="car")
    assert node.environment[variable] == "/robot/dds.xml"


def test_replay_gets_its_path_and_a_rate_of_type_double() -> None:
    (node,), _ = read_launch_file(REPLAY, path="1", rate="5")
    assert parameters_of(node) == {"path": "1", "rate": 5.0}
    assert isinstance(parameters_of(node)["rate"], float)


def test_the_quick_start_lists_all_arguments() -> None:
    _, context = read_launch_file(PERCEPTION, rig="car")
    page = (ROOT / "docs/quickstart.md").read_text()
    table = page.partition("Arguments of `perception.launch.py`")[2].partition("\n\nSeveral")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.M)) == context.declared.keys()


def test_every_program_is_installed() -> None:
    nodes, _ = read_launch_file(DEMO)
    for node in nodes:
        if node.package == "multimodal_perception":
            assert shutil.which(node.executable, path=str(Path(sys.executable).parent))


@pytest.mark.live
def test_the_demo_gives_objects_and_its_nodes_end_on_ctrl_c(tmp_path: Path) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from vision_msgs.msg import Detection3DArray

    from multimodal_perception.ros.qos import OUTPUT_QOS

    nodes, _ = read_launch_file(DEMO, rviz="false")
    assert [n.executable for n in nodes] == ["perception_node", "replay_node"]
    with ExitStack() as stack:
        rclpy.init()
        stack.callback(rclpy.shutdown)
        watcher = rclpy.create_node("watcher")
        stack.callback(watcher.destroy_node)
        received: list[Any] = []
        topic = "/perception/objects"
        watcher.create_subscription(Detection3DArray, topic, received.append, OUTPUT_QOS)
        executor = SingleThreadedExecutor()
        executor.add_node(watcher)
        stack.callback(executor.shutdown)
        processes = []
        for i, node in enumerate(nodes):
            processes.append(start(node, tmp_path / str(i)))
            stack.callback(processes[-1].wait)
            stack.callback(processes[-1].kill)
        for _ in range(2400):
            executor.spin_once(timeout_sec=0.1)
            assert [p.poll() for p in processes] == [None, None]
            if any(len(m.detections) for m in received):
                break
        assert any(len(m.detections) for m in received)
        for process in processes:
            process.send_signal(signal.SIGINT)
        assert [p.wait(60) for p in processes] == [0, 0]
