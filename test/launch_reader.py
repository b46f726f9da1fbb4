"""Evaluates the package's launch files without the packages launch and launch_ros, which have no wheels.

The classes of these packages that the launch files use are replaced by those of this module. A node gets
the same command line as from launch_ros (launch_ros/actions/node.py): --ros-args, its name and
namespace, parameters as files, remappings; and an environment.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from multimodal_perception.resources import share_path


@dataclass
class Context:
    """Values of the launch arguments, and the arguments that were declared: name to default."""

    values: dict[str, str]
    declared: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class LaunchedNode:
    """A node of a launch file. arguments: those after the program's name, up to --ros-args."""

    package: str
    executable: str
    name: str
    namespace: str
    arguments: tuple[str, ...]
    parameters: tuple[str | Mapping[str, Any], ...]
    remappings: tuple[tuple[str, str], ...]
    environment: Mapping[str, str]
    is_lifecycle: bool

    def ros_arguments(self, folder: Path) -> list[str]:
        """The arguments from --ros-args on. folder: for the parameter files."""
        result = ["--ros-args"]
        result += ["-r", f"__node:={self.name}"] if self.name else []
        result += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for i, parameters in enumerate(self.parameters):
            path = parameters
            if not isinstance(parameters, str):
                path = folder / f"launch_params_{i}.yaml"
                full_name = "/" + "/".join(p for p in (self.namespace.strip("/"), self.name) if p)
                key = full_name if self.name else "/**"
                path.write_text(yaml.dump({key: {"ros__parameters": dict(parameters)}}))
            result += ["--params-file", str(path)]
        for source, target in self.remappings:
            result += ["-r", f"{source}:={target}"]
        return result


class _Substitution:
    def perform(self, context: Context) -> str:
        raise NotImplementedError


@dataclass(frozen=True)
class LaunchConfiguration(_Substitution):
    name: str

    def perform(self, context: Context) -> str:
        return context.values[self.name]


@dataclass(frozen=True)
class PathJoinSubstitution(_Substitution):
    parts: Sequence[Any]

    def perform(self, context: Context) -> str:
        return os.path.join(*(perform(context, part) for part in self.parts))


@dataclass(frozen=True)
class EnvironmentVariable(_Substitution):
    name: str
    default_value: Any = None

    def perform(self, context: Context) -> str:
        value = os.environ.get(self.name)
        return perform(context, self.default_value) if value is None else value


@dataclass(frozen=True)
class FindPackageShare(_Substitution):
    package: str

    def perform(self, context: Context) -> str:
        assert self.package == "multimodal_perception"
        return str(share_path("package.xml").parent)


@dataclass(frozen=True)
class ParameterValue:
    value: Any
    value_type: type

    def evaluate(self, context: Context) -> Any:
        """The value with the type, as launch.utilities.type_utils.coerce_to_type converts it."""
        text = perform(context, self.value)
        if self.value_type is not bool:
            return self.value_type(text)
        value = yaml.safe_load({"0": "false", "1": "true"}.get(text, text))
        assert isinstance(value, bool), f"{text!r} is not a bool"
        return value


@dataclass(frozen=True)
class IfCondition:
    value: Any

    def evaluate(self, context: Context) -> bool:
        text = perform(context, self.value).lower()
        assert text in ("true", "false", "1", "0"), text
        return text in ("true", "1")


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: Any = None
    description: str = ""

    def visit(self, context: Context) -> Iterator[Any]:
        default = None if self.default_value is None else perform(context, self.default_value)
        context.declared[self.name] = default
        if self.name not in context.values:
            assert default is not None, f"launch argument {self.name} is required"
            context.values[self.name] = default
        yield from ()


@dataclass
class OpaqueFunction:
    function: Any

    def visit(self, context: Context) -> Iterator[Any]:
        yield from self.function(context) or ()


@dataclass
class IncludeLaunchDescription:
    path: Any
    launch_arguments: Any = ()

    def visit(self, context: Context) -> Iterator[Any]:
        for name, value in self.launch_arguments:
            context.values[name] = perform(context, value)
        yield from load_description(Path(perform(context, self.path))).entities


@dataclass
class LaunchDescription:
    entities: Sequence[Any]


class Node:
    is_lifecycle = False

    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str = "",
        namespace: Any = "",
        arguments: Sequence[Any] = (),
        parameters: Sequence[Any] = (),
        remappings: Sequence[tuple[str, str]] = (),
        additional_env: Mapping[str, Any] | None = None,
        condition: Any = None,
        output: str = "log",
    ) -> None:
        self._fixed = (package, executable, name)
        self._namespace, self._arguments = namespace, arguments
        self._parameters, self._remappings = parameters, tuple(remappings)
        self._environment, self._condition = additional_env or {}, condition

    def visit(self, context: Context) -> Iterator[Any]:
        if self._condition is not None and not self._condition.evaluate(context):
            return
        parameters: list[str | Mapping[str, Any]] = []
        for entry in self._parameters:
            if isinstance(entry, dict):
                parameters.append(
                    {
                        key: v.evaluate(context) if isinstance(v, ParameterValue) else v
                        for key, v in entry.items()
                    }
                )
            else:
                parameters.append(perform(context, entry))
        package, executable, name = self._fixed
        yield LaunchedNode(
            package,
            executable,
            name,
            perform(context, self._namespace),
            tuple(perform(context, a) for a in self._arguments),
            tuple(parameters),
            self._remappings,
            {key: perform(context, value) for key, value in self._environment.items()},
            self.is_lifecycle,
        )


class LifecycleNode(Node):
    is_lifecycle = True


MODULES = {
    "launch": (LaunchDescription,),
    "launch.actions": (DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction),
    "launch.conditions": (IfCondition,),
    "launch.substitutions": (EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution),
    "launch_ros": (),
    "launch_ros.actions": (LifecycleNode, Node),
    "launch_ros.parameter_descriptions": (ParameterValue,),
    "launch_ros.substitutions": (FindPackageShare,),
}


def perform(context: Context, value: Any) -> str:
    """The text of a substitution; any other value as text."""
    return value.perform(context) if isinstance(value, _Substitution) else str(value)


@contextmanager
def _replaced_modules() -> Iterator[None]:
    present = {name: sys.modules.get(name) for name in MODULES}
    for name, classes in MODULES.items():
        module = ModuleType(name)
        for member in classes:
            setattr(module, member.__name__, member)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in present.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def load_description(path: Path) -> LaunchDescription:
    """The description of a launch file."""
    spec = importlib.util.spec_from_file_location(f"launch_file_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _replaced_modules():
        spec.loader.exec_module(module)
        description = module.generate_launch_description()
    assert isinstance(description, LaunchDescription)
    return description


def read_launch_file(file: Path, /, **arguments: str) -> tuple[list[LaunchedNode], Context]:
    """The nodes that a launch file starts with these launch arguments, and the context afterwards."""
    context = Context(dict(arguments))
    nodes: list[LaunchedNode] = []
    pending = list(load_description(file).entities)
    while pending:
        entity = pending.pop(0)
        if isinstance(entity, LaunchedNode):
            nodes.append(entity)
        else:
            pending = [*entity.visit(context), *pending]
    return nodes, context
