"""RViz profile of a rig: its sensors and all outputs of the node. Imports no rclpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from multimodal_perception.files import atomic_write
from multimodal_perception.frame import Modality
from multimodal_perception.rig import Rig, Sensor
from multimodal_perception.rig_topics import resolve_topic
from multimodal_perception.ros import outputs
from multimodal_perception.ros.compressed_images import COMPRESSED_TYPE
from multimodal_perception.ros.occupancy_outputs import GRID_TOPIC, MAP_TOPIC, MAP_UPDATES_TOPIC

PANELS = ("rviz_common/Displays", "rviz_common/Views", "rviz_common/Tool Properties")
LATCHED, VOLATILE = "Transient Local", "Volatile"


def rviz_profile(rig: Rig, namespace: str | None = None) -> dict[str, Any]:
    """Content of an RViz profile.

    namespace: of the node; None for topics that are relative to the namespace of RViz.
    """
    displays = [*_common(), *_sensors(rig), *_objects(), *_grids(), *_images(rig)]
    if namespace is not None:
        for entry in displays:
            for key in entry.keys() & {"Topic", "Update Topic"}:
                entry[key]["Value"] = resolve_topic(entry[key]["Value"], namespace)
    return {
        "Panels": [{"Class": name, "Name": name.rpartition("/")[2]} for name in PANELS],
        "Visualization Manager": {
            "Class": "",
            "Displays": displays,
            "Global Options": {
                "Fixed Frame": rig.base_frame,
                "Background Color": "22; 24; 28",
                "Frame Rate": 30,
            },
            "Tools": [
                {"Class": f"rviz_default_plugins/{name}"} for name in ("MoveCamera", "Measure")
            ],
            "Views": {
                "Current": {
                    "Class": "rviz_default_plugins/ThirdPersonFollower",
                    "Distance": 35,
                    "Pitch": 0.75,
                    "Yaw": 3.14,
                    "Target Frame": rig.base_frame,
                    "Value": "ThirdPersonFollower (rviz_default_plugins)",
                }
            },
        },
        "Window Geometry": {"Width": 1600, "Height": 1000},
    }


def write_rviz_profile(rig: Rig, path: Path, namespace: str | None = None) -> None:
    """Write the profile of a rig, see rviz_profile. Raises FileError."""
    text = yaml.safe_dump(rviz_profile(rig, namespace), sort_keys=False)
    with atomic_write(path) as file:
        file.write(text.encode())


def display(
    name: str, kind: str, topic: Mapping[str, Any] | None = None, enabled: bool = True, **other: Any
) -> dict[str, Any]:
    """One display. kind: class of the plug-in. topic: see `topic`. other: further properties."""
    result: dict[str, Any] = {"Class": kind, "Name": name, "Enabled": enabled, **other}
    return result if topic is None else {**result, "Topic": dict(topic)}


def topic(name: str, reliable: bool = True, durability: str = VOLATILE) -> dict[str, Any]:
    """Topic of a display with its quality of service."""
    return {
        "Value": name,
        "Depth": 5,
        "History Policy": "Keep Last",
        "Reliability Policy": "Reliable" if reliable else "Best Effort",
        "Durability Policy": durability,
    }


def _common() -> Iterator[dict[str, Any]]:
    grid: dict[str, Any] = {"Cell Size": 10, "Plane Cell Count": 10, "Color": "90; 95; 105"}
    yield display("Grid", "rviz_default_plugins/Grid", **grid)
    yield display("Frames", "rviz_default_plugins/TF", enabled=False)


def _sensors(rig: Rig) -> Iterator[dict[str, Any]]:
    for name in rig.sensors_of(Modality.LIDAR):
        yield _cloud(name, topic(rig.sensors[name].topic, reliable=False), "AxisColor", Axis="Z")
    for modality in (Modality.CAMERA, Modality.THERMAL):
        for name in rig.sensors_of(modality):
            yield _sensor_image(rig.sensors[name])
    for name in rig.sensors_of(Modality.ULTRASONIC):
        range_topic = topic(rig.sensors[name].topic, reliable=False)
        yield display(name, "rviz_default_plugins/Range", range_topic, Alpha=0.4)


def _sensor_image(sensor: Sensor) -> dict[str, Any]:
    """An image display; RViz takes the base topic and the transport of compressed images."""
    name = sensor.topic
    if sensor.message == COMPRESSED_TYPE:
        name = name.removesuffix("/compressed")
    source = topic(name, reliable=False)
    if sensor.message == COMPRESSED_TYPE:
        source["Transport Hint"] = "compressed"
    thermal = sensor.modality is Modality.THERMAL
    return display(
        sensor.name, "rviz_default_plugins/Image", source, **{"Normalize Range": thermal}
    )


def _cloud(
    name: str, source: Mapping[str, Any], transformer: str, enabled: bool = True, **other: Any
) -> dict[str, Any]:
    style = {"Style": "Points", "Size (Pixels)": 3, "Color Transformer": transformer}
    kind = "rviz_default_plugins/PointCloud2"
    return display(name, kind, source, enabled, **style, **other, **{"Decay Time": 0})


def _objects() -> Iterator[dict[str, Any]]:
    namespaces: dict[str, Any] = {"Namespaces": {"boxes": True, "labels": True, "velocities": True}}
    markers = topic(outputs.MARKERS_TOPIC)
    yield display("Objects", "rviz_default_plugins/MarkerArray", markers, **namespaces)
    channel: dict[str, Any] = {"Channel Name": "id", "Use rainbow": True}
    yield _cloud("Tracks", topic(outputs.TRACKS_TOPIC), "Intensity", **channel)
    for name, source in (
        ("Boxes", outputs.OBJECTS_TOPIC),
        ("Tracked boxes", outputs.TRACKED_OBJECTS_TOPIC),
        ("Labels of a replay", "/ground_truth/objects"),
    ):
        title = f"{name} (needs vision_msgs_rviz_plugins)"
        kind = "vision_msgs_rviz_plugins/Detection3DArray"
        yield display(title, kind, topic(source), enabled=False)
    height: dict[str, Any] = {"Channel Name": "height", "Use rainbow": True}
    for name, source in (
        ("Obstacle points", outputs.OBSTACLE_POINTS_TOPIC),
        ("Ground points", outputs.GROUND_POINTS_TOPIC),
    ):
        yield _cloud(name, topic(source), "Intensity", enabled=False, **height)


def _grids() -> Iterator[dict[str, Any]]:
    yield _map("Occupancy", GRID_TOPIC, True)
    yield _map("Map", MAP_TOPIC, False, MAP_UPDATES_TOPIC, LATCHED)
    for layer in outputs.LAYER_TOPICS:
        yield _map(f"Layer {layer.rpartition('/')[2]}", layer, False)


def _map(
    name: str, source: str, enabled: bool, updates: str = "", durability: str = VOLATILE
) -> dict[str, Any]:
    style = {"Alpha": 0.5, "Color Scheme": "costmap", "Draw Behind": True}
    update_topic = topic(updates or f"{source}_updates")
    kind = "rviz_default_plugins/Map"
    source_topic = topic(source, durability=durability)
    return display(name, kind, source_topic, enabled, **style, **{"Update Topic": update_topic})


def _images(rig: Rig) -> Iterator[dict[str, Any]]:
    """Pictures that the node draws. RViz has no display for 2D boxes: they are drawn over the image."""
    pictures = {
        **{f"Masks {n}": f"{n}/colour" for n in outputs.mask_topics(rig)},
        **{f"2D boxes {n}": f"{n}/image" for n in outputs.image_box_topics(rig)},
        **{f"Fused {n}": n for n in outputs.fused_image_topics(rig)},
    }
    for title, source in pictures.items():
        words = title.split(" ")
        name = " ".join((*words[:-1], words[-1].rpartition("/")[2]))
        yield display(name, "rviz_default_plugins/Image", topic(source), enabled=False)
