"""Foxglove layout of a rig: its sensors and all outputs of the node. Imports no rclpy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multimodal_perception.files import atomic_write
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig
from multimodal_perception.rig_topics import resolve_topic
from multimodal_perception.ros import outputs
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC, MAP_TOPIC

# Stages whose times are plotted from perception/timing.
STAGES = ("detect", "image_detect", "segment", "track", "occupancy", "total", "node")
# Width of the 3D panel, percent of the window.
SCENE_PERCENT = 62


def foxglove_layout(rig: Rig, namespace: str = "/") -> dict[str, Any]:
    """Content of a layout file. namespace: of the node and of relative topics of the rig.

    Foxglove has no display for vision_msgs: 3D boxes are shown as markers, 2D boxes as pictures.
    """

    def absolute(topic: str) -> str:
        return resolve_topic(topic, namespace)

    panels: dict[str, Any] = {"3D!scene": _scene(rig, absolute)}
    images = _image_panels(rig, absolute)
    panels |= images
    panels["Plot!stages"] = _stage_plot(absolute(outputs.TIMING_TOPIC))
    panels["DiagnosticSummary!health"] = {
        "minLevel": 0,
        "pinnedIds": [],
        "topicToRender": outputs.DIAGNOSTICS_TOPIC,
        "hardwareIdFilter": "",
    }
    pictures = _tabs("Tab!images", list(images), panels)
    right = _stack([*pictures, "Plot!stages", "DiagnosticSummary!health"])
    return {
        "configById": panels,
        "globalVariables": {},
        "userNodes": {},
        "playbackConfig": {"speed": 1},
        "layout": {
            "first": "3D!scene",
            "second": right,
            "direction": "row",
            "splitPercentage": SCENE_PERCENT,
        },
    }


def write_foxglove_layout(rig: Rig, path: Path, namespace: str = "/") -> None:
    """Write the layout of a rig. Raises FileError."""
    with atomic_write(path) as file:
        file.write((json.dumps(foxglove_layout(rig, namespace), indent=2) + "\n").encode())


def _scene(rig: Rig, absolute: Any) -> dict[str, Any]:
    topics: dict[str, Any] = {
        absolute(rig.sensors[name].topic): _cloud_settings("z")
        for name in rig.sensors_of(Modality.LIDAR)
    }
    for name in rig.sensors_of(Modality.ULTRASONIC):
        topics[absolute(rig.sensors[name].topic)] = {"visible": True}
    topics[absolute(outputs.MARKERS_TOPIC)] = {"visible": True}
    topics[absolute(outputs.TRACKS_TOPIC)] = {**_cloud_settings("id"), "pointSize": 8}
    for topic, field, visible in (
        (outputs.OBSTACLE_POINTS_TOPIC, "height", True),
        (outputs.GROUND_POINTS_TOPIC, "height", False),
    ):
        topics[absolute(topic)] = {**_cloud_settings(field), "visible": visible}
    topics[absolute(GRID_TOPIC)] = {"visible": True}
    for topic in (MAP_TOPIC, *outputs.LAYER_TOPICS):
        topics[absolute(topic)] = {"visible": False}
    return {
        "cameraState": {"perspective": True, "distance": 35, "phi": 60, "thetaOffset": 90},
        "followMode": "follow-pose",
        "followTf": rig.base_frame,
        "scene": {"transforms": {"visible": False}},
        "transforms": {},
        "topics": topics,
        "layers": {"grid": {"layerId": "foxglove.Grid", "visible": True, "size": 100}},
        "publish": {},
        "imageMode": {},
    }


def _cloud_settings(field: str) -> dict[str, Any]:
    return {
        "visible": True,
        "colorField": field,
        "colorMode": "colormap",
        "colorMap": "turbo",
        "pointSize": 3,
    }


def _image_panels(rig: Rig, absolute: Any) -> dict[str, Any]:
    """Image panels by id: the images of the sensors, and the pictures that the node draws."""
    panels: dict[str, Any] = {}
    for name in (*rig.sensors_of(Modality.CAMERA), *rig.sensors_of(Modality.THERMAL)):
        sensor = rig.sensors[name]
        mode: dict[str, Any] = {"imageTopic": absolute(sensor.topic)}
        if sensor.camera_info_topic is not None:
            mode["calibrationTopic"] = absolute(sensor.camera_info_topic)
        panels[f"Image!{name}"] = {"imageMode": mode, "foxglovePanelTitle": name}
    pictures = (
        *(f"{topic}/image" for topic in outputs.image_box_topics(rig)),
        *(f"{topic}/colour" for topic in outputs.mask_topics(rig)),
        *outputs.fused_image_topics(rig),
    )
    for topic in pictures:
        title = topic.removeprefix("perception/")
        mode = {"imageTopic": absolute(topic)}
        panels[f"Image!{title.replace('/', '_')}"] = {
            "imageMode": mode,
            "foxglovePanelTitle": title,
        }
    return panels


def _stage_plot(timing: str) -> dict[str, Any]:
    """Times of the stages, ms: the values of the status `stages` are strings, which are plotted too."""
    paths = [
        {
            "value": f'{timing}.status[0].values[:]{{key=="{stage}"}}.value',
            "enabled": True,
            "timestampMethod": "headerStamp",
            "label": stage,
        }
        for stage in STAGES
    ]
    return {
        "foxglovePanelTitle": "Stage times, ms",
        "paths": paths,
        "showLegend": True,
        "legendDisplay": "floating",
        "xAxisVal": "timestamp",
        "isSynced": True,
    }


def _tabs(identifier: str, members: Sequence[str], panels: dict[str, Any]) -> list[str]:
    """A panel with one tab for each member, added to `panels`; none without members."""
    if not members:
        return []
    titles = [panels[member]["foxglovePanelTitle"] for member in members]
    tabs = [{"title": t, "layout": m} for t, m in zip(titles, members, strict=True)]
    panels[identifier] = {"activeTabIdx": 0, "tabs": tabs}
    return [identifier]


def _stack(members: Sequence[str]) -> Any:
    """Panels below each other with equal heights."""
    first, *rest = members
    if not rest:
        return first
    share = 100 / len(members)
    return {
        "first": first,
        "second": _stack(rest),
        "direction": "column",
        "splitPercentage": share,
    }
