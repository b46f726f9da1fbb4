"""Parameters: every one described, typed, checked, and in the shipped file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.node import Node
from rclpy.parameter import Parameter

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.resources import share_path
from multimodal_perception.ros import parameters


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("parameters", context=context)
    parameters.declare(made)
    yield made
    made.destroy_node()
    rclpy.shutdown(context=context)


def test_every_parameter_is_described() -> None:
    bare = [e.name for e in parameters.entries() if len(e.description.split()) < 2]
    assert not bare


def test_the_shipped_file_is_that_of_the_code_and_holds_the_defaults() -> None:
    path = share_path("config", "perception.yaml")
    assert path.read_text() == parameters.parameter_file()
    content = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    defaults = {e.name: e.default for e in parameters.entries()}

    def flat(tree: dict, prefix: str = "") -> dict:  # type: ignore[type-arg]
        result = {}
        for key, value in tree.items():
            result.update(
                flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
            )
        return result

    assert flat(content) == defaults


def test_undeclared_changes_give_the_defaults(node: Node) -> None:
    assert asdict(parameters.read(node)) == asdict(parameters.NodeConfig())


@pytest.mark.parametrize(
    ("text", "cameras", "words"),
    [
        (None, (), ""),
        ("[front, rear]", ("front", "rear"), ""),
        ("[]", (), ""),
        ("front", (), "pipeline.rgbx.cameras"),
        ("[1, 2]", (), "pipeline.rgbx.cameras"),
    ],
)
def test_a_parameter_file_is_read_by_a_node_its_empty_lists_too(
    text: str | None, cameras: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """text: of the list that is empty by default; None is the shipped file."""
    path = share_path("config", "perception.yaml")
    if text is not None:
        path = tmp_path / "parameters.yaml"
        path.write_text(f"/**: {{ros__parameters: {{pipeline.rgbx.cameras: {text}}}}}\n")
    context = rclpy.Context()
    rclpy.init(context=context)
    arguments = ["--ros-args", "--params-file", str(path)]
    made = rclpy.create_node("parameters", context=context, cli_args=arguments)
    try:
        parameters.declare(made)
        if words:
            with pytest.raises(ConfigurationError, match=words):
                parameters.read(made)
        else:
            read = parameters.read(made)
            assert read.pipeline.rgbx.cameras == cameras
            assert text is not None or asdict(read) == asdict(parameters.NodeConfig())
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)


def test_ranges_and_types_are_the_node_s_own(node: Node) -> None:
    def change(name: str, value: object) -> bool:
        return node.set_parameters([Parameter(name, value=value)])[0].successful

    assert change("pipeline.geometric.min_score", 0.7)
    assert parameters.read(node).pipeline.geometric.min_score == 0.7
    assert not change("pipeline.geometric.min_score", 1.7)
    assert not change("pipeline.geometric.min_score", "high")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("pipeline.detector", "magic", "allowed: auto, geometric, fusion"),
        ("pipeline.geometric.band", [2.0, 1.0], "rising heights"),
        ("pipeline.geometric.band", [1.0], "expected 2 values"),
    ],
)
def test_what_ranges_cannot_say_is_refused_by_name(
    node: Node, name: str, value: object, words: str
) -> None:
    assert node.set_parameters([Parameter(name, value=value)])[0].successful
    with pytest.raises(ConfigurationError, match=words):
        parameters.read(node)
