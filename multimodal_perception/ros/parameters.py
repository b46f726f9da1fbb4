"""The node's parameters: one typed dataclass, declared with types, ranges and descriptions."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from multimodal_perception.calibration_monitor.monitor import WatchConfig
from multimodal_perception.configuration import build
from multimodal_perception.pipeline import PipelineConfig
from multimodal_perception.ros.occupancy_outputs import OccupancyOutputConfig
from multimodal_perception.synchronization.message_filters_policies import Policy
from multimodal_perception.synchronization.sensor_health import HealthConfig


@dataclass(frozen=True)
class NodeConfig:
    """Parameters of perception_node.

    rig: path of a rig file, or the name of one in the package's config/rigs. deadline_s: how long a
    frame waits for its last readings after the first. policy: how readings become frames; approximate
    and exact behave as message_filters' synchronizers do and give complete frames alone.
    frame_rate_hz: with the deadline policy; 0 is the rate of the first sensor in line (LiDAR, camera,
    thermal, ultrasonic). autostart: configure and activate at start.
    diagnostics_period_s: between messages on /diagnostics. marker_lifetime_s: after which RViz drops
    boxes that nobody renewed. warn_latency_s: from the last reading of a frame to its boxes, above
    which diagnostics warn. registration: watch over the calibration between sensors.
    """

    rig: str = ""
    deadline_s: float = field(default=0.05, metadata={"min": 0.001, "max": 5.0})
    policy: Policy = "deadline"
    frame_rate_hz: float = field(default=0.0, metadata={"min": 0.0, "max": 1000.0, "unit": "Hz"})
    autostart: bool = False
    diagnostics_period_s: float = field(default=1.0, metadata={"min": 0.05, "max": 60.0})
    marker_lifetime_s: float = field(default=1.0, metadata={"min": 0.0, "max": 60.0})
    warn_latency_s: float = field(default=0.15, metadata={"min": 0.001, "max": 10.0})
    health: HealthConfig = field(default_factory=HealthConfig)
    occupancy: OccupancyOutputConfig = field(default_factory=OccupancyOutputConfig)
    registration: WatchConfig = field(default_factory=WatchConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)


@dataclass(frozen=True)
class ParameterEntry:
    """One parameter: its dotted name, default, description and range (None without)."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None


def entries(config: Any = None, prefix: str = "") -> Iterator[ParameterEntry]:
    """All parameters of a configuration, depth first."""
    config = NodeConfig() if config is None else config
    hints = typing.get_type_hints(type(config))
    texts = _field_texts(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from entries(value, f"{name}.")
            continue
        text = texts.get(item.name, "")
        if typing.get_origin(hints[item.name]) is typing.Literal:
            text += f" Allowed: {', '.join(map(str, typing.get_args(hints[item.name])))}."
        if "unit" in item.metadata:
            text += f" [{item.metadata['unit']}]"
        default = list(value) if isinstance(value, tuple) else value
        yield ParameterEntry(
            name, default, text.strip(), item.metadata.get("min"), item.metadata.get("max")
        )


def declare(node: Node) -> None:
    """Declare every parameter on a node."""
    for entry in entries():
        descriptor = ParameterDescriptor(
            description=entry.description,
            additional_constraints="read when the node is configured",
            # An empty list has no type: ROS takes it for bytes, and for unset where a file has it.
            dynamic_typing=entry.default == [],
        )
        if entry.low is not None and entry.high is not None:
            if isinstance(entry.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(entry.low), to_value=float(entry.high))
                ]
            elif isinstance(entry.default, int):
                descriptor.integer_range = [
                    IntegerRange(from_value=int(entry.low), to_value=int(entry.high), step=1)
                ]
        node.declare_parameter(entry.name, entry.default, descriptor)


def read(node: Node) -> NodeConfig:
    """The node's parameters as a checked NodeConfig. Raises ConfigurationError."""
    tree: dict[str, Any] = {}
    for entry in entries():
        value = node.get_parameter(entry.name).value
        *folders, last = entry.name.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        if isinstance(entry.default, list) and not isinstance(value, (str, bool, int, float)):
            value = list(value or ())  # an array, or what an empty list became
        branch[last] = value
    return build(NodeConfig, tree, "parameters")


def parameter_file() -> str:
    """The package's config/perception.yaml: every parameter with its default, described."""
    lines = [
        "# Parameters of perception_node, read when it is configured. Every key, with its default.",
        "/**:",
        "  ros__parameters:",
    ]
    open_folders: list[str] = []
    for entry in entries():
        *folders, last = entry.name.split(".")
        shared = 0
        while shared < min(len(folders), len(open_folders)) and (
            folders[shared] == open_folders[shared]
        ):
            shared += 1
        for depth in range(shared, len(folders)):
            lines.append(f"{'  ' * (depth + 2)}{folders[depth]}:")
        open_folders = folders
        indent = "  " * (len(folders) + 2)
        limits = "" if entry.low is None else f" Allowed: {entry.low:g} to {entry.high:g}."
        lines += textwrap.wrap(
            entry.description + limits,
            98,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
        )
        lines.append(f"{indent}{last}: {json.dumps(entry.default)}")
    return "\n".join(lines) + "\n"


def _field_texts(cls: type) -> dict[str, str]:
    """What a dataclass's docstring says of each field, written there as `name: what it is.`"""
    text = " ".join((inspect.getdoc(cls) or "").split())
    names = "|".join(f.name for f in dataclasses.fields(cls))
    heads = list(re.finditer(rf"(?:(?<=\. )|(?<=^))((?:{names})(?:, (?:{names}))*): ", text))
    result = {}
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        said = text[head.end() : following.start() if following else len(text)].strip()
        for name in head.group(1).split(", "):
            result[name] = said[:1].upper() + said[1:]
    return result
