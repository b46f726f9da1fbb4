"""RViz profiles and Foxglove layouts of rigs: every topic is one of the node or of the rig."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from multimodal_perception.cli.main import main
from multimodal_perception.image_fusion.stage import ImageFusionConfig
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.resources import share_path
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.rig_topics import resolve_topic
from multimodal_perception.ros import outputs
from multimodal_perception.ros.foxglove_layout import foxglove_layout
from multimodal_perception.ros.occupancy_outputs import MAP_TOPIC
from multimodal_perception.ros.parameters import NodeConfig
from multimodal_perception.ros.publishers import output_topics
from multimodal_perception.ros.rviz_profile import rviz_profile

RIGS = ("simulation", "camera_thermal", "amr")
EVERYTHING = NodeConfig(
    pipeline=PipelineConfig(
        segmenter="rgb_thermal",
        image_detector="rgb_thermal",
        image_fusion=ImageFusionConfig(model="image_fusion"),
    )
)
# Message types that a display of RViz accepts.
DISPLAYS = {
    "rviz_default_plugins/PointCloud2": "sensor_msgs/msg/PointCloud2",
    "rviz_default_plugins/Image": "sensor_msgs/msg/Image",
    "rviz_default_plugins/Range": "sensor_msgs/msg/Range",
    "rviz_default_plugins/Map": "nav_msgs/msg/OccupancyGrid",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/msg/MarkerArray",
    "vision_msgs_rviz_plugins/Detection3DArray": "vision_msgs/msg/Detection3DArray",
}
REPLAY_TOPICS = {"/ground_truth/objects": "vision_msgs/msg/Detection3DArray"}


def known_topics(rig: Rig, namespace: str = "/") -> dict[str, str]:
    """Types of all topics of the rig and of a node with all outputs, by absolute name."""
    own = {resolve_topic(t, namespace): n for t, n in output_topics(rig, EVERYTHING).items()}
    sensors = {s.topic: s.message for s in rig.sensors.values()}
    infos = {
        s.camera_info_topic: "sensor_msgs/msg/CameraInfo"
        for s in rig.sensors.values()
        if s.camera_info_topic
    }
    return {**own, **sensors, **infos, **REPLAY_TOPICS}


def displays(profile: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for display in profile["Visualization Manager"]["Displays"]:
        if "Topic" in display:
            yield display["Class"], display["Topic"]["Value"]


def values(content: Any, keys: tuple[str, ...]) -> Iterator[str]:
    """All strings below the keys, at any depth."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if isinstance(value, str) and key in keys:
            yield value
        elif isinstance(value, dict | list):
            yield from values(value, keys)


@pytest.mark.parametrize("name", RIGS)
@pytest.mark.parametrize("namespace", ["/", "/robot_1"])
def test_every_topic_of_a_profile_exists_with_the_type_of_its_display(
    name: str, namespace: str
) -> None:
    rig = load_rig(resolve_rig_path(name), namespace)
    known = known_topics(rig, namespace)
    shown = list(displays(rviz_profile(rig, namespace)))
    assert {topic: known[topic] for _, topic in shown} == {t: DISPLAYS[c] for c, t in shown}
    # All sensors and all results that RViz can show have a display.
    wanted = {
        t for t, n in known.items() if n in DISPLAYS.values() and not t.endswith(("/compressed",))
    }
    masks = {resolve_topic(t, namespace) for t in outputs.mask_topics(rig)}
    assert wanted - masks == {t for _, t in shown}
    assert all(s.topic in {t for _, t in shown} for s in rig.sensors.values())


@pytest.mark.parametrize("name", RIGS)
def test_every_topic_and_panel_of_a_layout_exists(name: str) -> None:
    rig = load_rig(resolve_rig_path(name), "/robot_1")
    layout = foxglove_layout(rig, "/robot_1")
    known, panels = known_topics(rig, "/robot_1"), layout["configById"]
    images = list(values(panels, ("imageTopic",)))
    assert {known[t] for t in images} <= {
        "sensor_msgs/msg/Image",
        "sensor_msgs/msg/CompressedImage",
    }
    assert all(known[t].endswith("CameraInfo") for t in values(panels, ("calibrationTopic",)))
    scene = set(panels["3D!scene"]["topics"])
    assert scene <= set(known) and resolve_topic(MAP_TOPIC, "/robot_1") in scene
    sensors = {s.topic for s in rig.sensors.values()}
    assert sensors <= scene | set(images)
    for path in values(panels["Plot!stages"], ("value",)):
        assert known[path.partition(".")[0]] == "diagnostic_msgs/msg/DiagnosticArray"
    assert panels["3D!scene"]["followTf"] == rig.base_frame
    referenced = {layout["layout"]["first"], *values(layout["layout"], ("first", "second"))}
    referenced |= set(values(panels.get("Tab!images", {}), ("layout",)))
    assert referenced == set(panels)


def test_the_command_writes_both_files_and_the_shipped_ones_are_those_of_the_simulated_rig(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rviz, foxglove = tmp_path / "a.rviz", tmp_path / "b.json"
    picture = ["--out", str(tmp_path / "rig.png")]
    files = ["--rviz", str(rviz), "--foxglove", str(foxglove)]
    assert main(["rig", "check", "simulation", *picture, *files]) == 0
    assert str(rviz) in capsys.readouterr().out
    for written, shipped in (
        (rviz, "rviz/perception.rviz"),
        (foxglove, "foxglove/perception.json"),
    ):
        assert written.read_text() == share_path("config", *shipped.split("/")).read_text()
    assert yaml.safe_load(rviz.read_text()) == rviz_profile(
        load_rig(resolve_rig_path("simulation"))
    )
    assert json.loads(foxglove.read_text())["layout"]["first"] == "3D!scene"
    assert main(["rig", "check", "amr", *picture, "--namespace", "/robot_1", *files]) == 0
    assert "/robot_1/perception/map" in rviz.read_text()
    assert main(["rig", "check", "amr", *picture, "--namespace", "no space", *files]) != 0
    assert main(["rig", "check", "amr", *picture, "--rviz", str(tmp_path / "x" / "y")]) != 0
