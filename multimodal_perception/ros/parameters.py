"""The node's parameters: one typed dataclass, declared with types, ranges and descriptions.

Importing this module does not need rclpy, so that the documentation can be built without ROS.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from multimodal_perception.calibration_monitor.monitor import CalibrationMonitorConfig
from multimodal_perception.configuration import ConfigurationError, build
from multimodal_perception.load_control import LoadConfig
from multimodal_perception.pipeline_builder import PipelineConfig
from multimodal_perception.pointcloud.obstacle_points import ObstaclePointsConfig
from multimodal_perception.ros.arguments import check_names
from multimodal_perception.ros.occupancy_outputs import OccupancyOutputConfig
from multimodal_perception.synchronization.message_filters_policies import Policy
from multimodal_perception.synchronization.sensor_health import HealthConfig

if TYPE_CHECKING:
    from rclpy.node import Node


@dataclass(frozen=True)
class NodeConfig:
    """Parameters of perception_node.

    Attributes:
        rig: Path of a rig file, or the name of one in the package's config/rigs. Set it to the file
            that describes the sensors of your vehicle; the node does not start without it.
        deadline_s: Maximum time that a frame waits for its last readings after the first one.
            Increase it if /diagnostics reports many incomplete frames; a frame with a missing
            sensor is late by this time.
        synchronization_policy: How readings become frames. `deadline` also gives incomplete frames;
            `approximate` and `exact` behave like the synchronizers of message_filters and give
            complete frames only. Keep `deadline` if frames must continue to be processed when a
            sensor fails.
        frame_rate_hz: Rate of frames with the synchronization policy `deadline`. The value 0 gives
            the rate of the first available modality in the order LiDAR, camera, thermal camera,
            ultrasonic. Decrease it on computers that cannot keep up with the sensors.
        autostart: Configure and activate the node at start. Disable it if a lifecycle manager makes
            the transitions of the node.
        diagnostics_period_s: Interval between messages on /diagnostics. Increase it to reduce
            traffic; counts and warnings appear later then.
        marker_lifetime_s: Time after which RViz removes markers that were not updated. Increase it
            if markers flicker at low frame rates; 0 keeps them until they are deleted.
        marker_evidence: Whether a text below each box shows the opinions of the sensors about it, if the
            detector's model has a network for them. Enable it to see in RViz which sensors support a
            box.
        warn_latency_s: Latency above which /diagnostics warns, from the arrival of the last reading
            of a frame to the publication of its boxes. Set it to what your planner tolerates.
        autoware_outputs: Whether objects and tracks are also published as autoware_perception_msgs, on
            perception/autoware/. Enable it to feed Autoware; the package must be installed then.
        health: Health monitoring of the sensors.
        load: Reaction to a load at which not every frame can be processed.
        occupancy: Publication of occupancy grids.
        obstacle_points: Points of obstacles and of the ground for costmaps.
        calibration_monitor: Monitoring of the calibration between sensors.
        pipeline: Perception pipeline.
    """

    rig: str = ""
    deadline_s: float = field(default=0.05, metadata={"min": 0.001, "max": 5.0, "unit": "s"})
    synchronization_policy: Policy = "deadline"
    frame_rate_hz: float = field(default=0.0, metadata={"min": 0.0, "max": 1000.0, "unit": "Hz"})
    autostart: bool = False
    diagnostics_period_s: float = field(
        default=1.0, metadata={"min": 0.05, "max": 60.0, "unit": "s"}
    )
    marker_lifetime_s: float = field(
        default=1.0, metadata={"min": 0.0, "max": 60.0, "unit": "s", "dynamic": True}
    )
    marker_evidence: bool = field(default=False, metadata={"dynamic": True})
    warn_latency_s: float = field(
        default=0.15, metadata={"min": 0.001, "max": 10.0, "unit": "s", "dynamic": True}
    )
    autoware_outputs: bool = False
    health: HealthConfig = field(default_factory=HealthConfig)
    load: LoadConfig = field(default_factory=LoadConfig)
    occupancy: OccupancyOutputConfig = field(default_factory=OccupancyOutputConfig)
    obstacle_points: ObstaclePointsConfig = field(default_factory=ObstaclePointsConfig)
    calibration_monitor: CalibrationMonitorConfig = field(default_factory=CalibrationMonitorConfig)
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)


@dataclass(frozen=True)
class ParameterEntry:
    """One parameter. name: dotted. choices: allowed values of an enumeration, else empty.

    builtin: names of the built-in stages, for parameters that also accept plug-ins. minimum, maximum:
    inclusive, None without a limit. unit: empty without one. dynamic: whether it can be changed while
    the node runs.
    """

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    builtin: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    dynamic: bool = False

    def full_description(self) -> str:
        """The description with choices, range and unit."""
        parts = [self.description]
        if self.choices:
            parts.append(f"Allowed: {', '.join(self.choices)}.")
        if self.builtin:
            builtin = ", ".join(self.builtin)
            parts.append(f"Allowed: {builtin}, the name of a plug-in, or package.module:Class.")
        if self.minimum is not None:
            parts.append(f"Range: {self.minimum:g} to {self.maximum:g}.")
        if self.unit:
            parts.append(f"Unit: {self.unit}.")
        if self.dynamic:
            parts.append("Can be changed while the node runs.")
        return " ".join(parts)


def entries(config: Any = None, prefix: str = "") -> Iterator[ParameterEntry]:
    """All parameters of a configuration dataclass, depth first."""
    config = NodeConfig() if config is None else config
    hints = typing.get_type_hints(type(config))
    descriptions = _descriptions(type(config))
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            yield from entries(value, f"{name}.")
            continue
        literal = typing.get_origin(hints[item.name]) is typing.Literal
        yield ParameterEntry(
            name,
            list(value) if isinstance(value, tuple) else value,
            descriptions.get(item.name, ""),
            tuple(map(str, typing.get_args(hints[item.name]))) if literal else (),
            item.metadata.get("builtin", ()),
            item.metadata.get("min"),
            item.metadata.get("max"),
            item.metadata.get("unit", ""),
            item.metadata.get("dynamic", False),
        )


def section_summaries(config: Any = None, prefix: str = "") -> dict[str, str]:
    """First sentence of the docstring of each nested configuration dataclass, by dotted name."""
    config = NodeConfig() if config is None else config
    summaries: dict[str, str] = {}
    for item in dataclasses.fields(config):
        value, name = getattr(config, item.name), prefix + item.name
        if dataclasses.is_dataclass(value):
            paragraph = " ".join((inspect.getdoc(type(value)) or "").partition("\n\n")[0].split())
            summaries[name] = re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
            summaries |= section_summaries(value, f"{name}.")
    return summaries


def declare(node: Node) -> None:
    """Declare every parameter on a node.

    An integer is accepted for a parameter of type double. Raises ConfigurationError for an unknown
    parameter, a wrong type or a value outside the range.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException

    overrides = node._parameter_overrides  # rclpy has no public access to them
    check_names(overrides, (entry.name for entry in entries()))
    for entry in entries():
        _convert_integer(overrides, entry)
        descriptor = ParameterDescriptor(
            description=entry.full_description(),
            additional_constraints="can be changed while the node runs"
            if entry.dynamic
            else "read when the node is configured",
            # ROS cannot infer the type of an empty list: in code it becomes a byte array, and in a
            # parameter file it is treated as not set.
            dynamic_typing=entry.default == [],
        )
        if entry.minimum is not None and entry.maximum is not None:
            if isinstance(entry.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(
                        from_value=float(entry.minimum), to_value=float(entry.maximum)
                    )
                ]
            elif isinstance(entry.default, int):
                descriptor.integer_range = [
                    IntegerRange(from_value=int(entry.minimum), to_value=int(entry.maximum), step=1)
                ]
        try:
            node.declare_parameter(entry.name, entry.default, descriptor)
        except InvalidParameterTypeException:
            given = overrides[entry.name]
            raise ConfigurationError(
                f"parameter {entry.name}: expected {_type_name(entry)}, got "
                f"{given.type_.name.lower().replace('_', ' ')} {str(given.value)[:60]!r}"
            ) from None
        except InvalidParameterValueException:
            raise ConfigurationError(
                f"parameter {entry.name}: allowed: {entry.minimum:g} to {entry.maximum:g}"
                f"{' ' + entry.unit if entry.unit else ''}; got {overrides[entry.name].value}"
            ) from None


def _convert_integer(overrides: dict[str, Any], entry: ParameterEntry) -> None:
    """Convert the given integer value of a parameter of type double."""
    from rclpy.parameter import Parameter

    given = overrides.get(entry.name)
    if given is None:
        return
    if isinstance(entry.default, float) and given.type_ == Parameter.Type.INTEGER:
        overrides[entry.name] = Parameter(entry.name, Parameter.Type.DOUBLE, float(given.value))
    if (
        isinstance(entry.default, list)
        and entry.default
        and isinstance(entry.default[0], float)
        and given.type_ == Parameter.Type.INTEGER_ARRAY
    ):
        overrides[entry.name] = Parameter(
            entry.name, Parameter.Type.DOUBLE_ARRAY, [float(v) for v in given.value]
        )


def dynamic_names() -> frozenset[str]:
    """Names of the parameters that can be changed while the node runs."""
    return frozenset(entry.name for entry in entries() if entry.dynamic)


def read(node: Node, changes: Mapping[str, Any] | None = None) -> NodeConfig:
    """The node's parameters as a checked NodeConfig. Raises ConfigurationError.

    changes: values by name that replace those of the node.
    """
    tree: dict[str, Any] = {}
    for entry in entries():
        if changes is not None and entry.name in changes:
            value = changes[entry.name]
        else:
            value = node.get_parameter(entry.name).value
        *groups, last = entry.name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        if isinstance(entry.default, list) and not isinstance(value, (str, bool, int, float)):
            value = list(value or ())  # an array, or None for an empty list
        branch[last] = value
    return build(NodeConfig, tree, "parameters")


def parameter_file() -> str:
    """Content of config/perception.yaml: every parameter with its default and description."""
    lines = [
        "# Parameters of perception_node with their defaults, read when the node is configured. The",
        "# description states which ones can also be changed while it runs.",
        "# Generated by: python -m multimodal_perception.ros.parameters --yaml",
        "/**:",
        "  ros__parameters:",
    ]
    summaries = section_summaries()
    open_groups: list[str] = []
    for entry in entries():
        *groups, last = entry.name.split(".")
        pairs = zip(groups, open_groups, strict=False)
        common = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        for depth in range(common, len(groups)):
            indent = "  " * (depth + 2)
            lines += _comment(summaries[".".join(groups[: depth + 1])], indent)
            lines.append(f"{indent}{groups[depth]}:")
        open_groups = groups
        indent = "  " * (len(groups) + 2)
        lines += _comment(entry.full_description(), indent)
        lines.append(f"{indent}{last}: {json.dumps(entry.default)}")
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: str) -> list[str]:
    """Lines of a YAML comment."""
    return textwrap.wrap(
        text,
        98,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def parameter_table() -> str:
    """Markdown tables of all parameters, one per group."""
    head = (
        "| Parameter | Type | Default | Range | Unit | Dynamic | Description |\n" + 7 * "|---" + "|"
    )
    lines: list[str] = []
    summaries = section_summaries()
    last_group = None
    for entry in entries():
        group = entry.name.rpartition(".")[0]
        if group != last_group:
            summary = [summaries[group], ""] if group else []
            lines += ["", f"## {group or 'Node'}", "", *summary, head]
            last_group = group
        if entry.choices or entry.builtin:
            allowed = ", ".join(f"`{c}`" for c in entry.choices or entry.builtin)
            allowed += ", plug-in" if entry.builtin else ""
        elif entry.minimum is not None:
            allowed = f"{entry.minimum:g} to {entry.maximum:g}"
        else:
            allowed = ""
        cells = (
            f"`{entry.name}`",
            _type_name(entry),
            f"`{json.dumps(entry.default)}`",
            allowed,
            entry.unit,
            "yes" if entry.dynamic else "",
            entry.description.replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def _type_name(entry: ParameterEntry) -> str:
    """ROS parameter type of an entry."""
    names = {bool: "bool", int: "integer", float: "double", str: "string"}
    if isinstance(entry.default, list):
        return f"{names[type(entry.default[0])]} array" if entry.default else "string array"
    return names[type(entry.default)]


def _descriptions(cls: type) -> dict[str, str]:
    """Descriptions of a dataclass's fields, from the section Attributes of its docstring."""
    lines = (inspect.getdoc(cls) or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    section = textwrap.dedent("\n".join(lines[lines.index("Attributes:") + 1 :])).splitlines()
    descriptions: dict[str, str] = {}
    name = ""
    for line in section:
        head = re.match(r"(\w+): (.*)", line)
        if head:
            name = head.group(1)
            descriptions[name] = head.group(2).strip()
        elif name and line.strip():
            descriptions[name] += " " + line.strip()
    return descriptions


def main(args: Sequence[str] | None = None) -> int:
    """Print the parameter file or the tables of the documentation."""
    parser = argparse.ArgumentParser(description="Print all parameters of perception_node.")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--yaml", action="store_true", help="as a ROS parameter file")
    group.add_argument("--markdown", action="store_true", help="as Markdown tables")
    options = parser.parse_args(args)
    sys.stdout.write(parameter_file() if options.yaml else parameter_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
