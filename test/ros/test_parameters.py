"""Parameters of the node: descriptions, types, ranges, and the shipped file."""

from __future__ import annotations

import re
import subprocess
import sys
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


ADVICE = [
    "Increase",
    "Decrease",
    "Set",
    "Lower",
    "Raise",
    "Use",
    "Keep",
    "Enable",
    "Disable",
    "Change",
    "Choose",
    "Leave",
]
UNIT_OF_ENDING = {
    "s": "s",
    "hz": "Hz",
    "m": "m",
    "px": "px",
    "deg": "deg",
    "rad": "rad",
    "ms": "ms",
    "mps": "m/s",
}


def problems_of(entry: parameters.ParameterEntry) -> list[str]:
    """What is wrong with the description or unit of a parameter."""
    text = entry.description
    # A sentence ends at a period before a space and a capital letter or a quoted value.
    sentences = [s for s in re.split(r"(?<=[.])\s+(?=[A-Z`])", text) if s]
    problems = []
    if len(sentences) < 2:
        problems.append("fewer than two sentences")
    if len(text.split()) < 12:
        problems.append("fewer than 12 words")
    if not re.match(r"[A-Z`]", text) or not text.endswith("."):
        problems.append("not a capital letter at the start and a period at the end")
    if not any(s.split()[0].rstrip(",") in ADVICE for s in sentences):
        problems.append(f"no sentence that starts with one of {', '.join(ADVICE)}")
    ending = entry.name.rpartition("_")[2]
    unit = UNIT_OF_ENDING.get(ending, entry.unit)
    if isinstance(entry.default, (int, float)) and entry.unit != unit:
        problems.append(f"unit is {entry.unit!r}, expected {unit!r}")
    return problems


def test_every_parameter_has_a_full_description_and_its_unit() -> None:
    """First what the parameter does, then when to change it."""
    problems = {e.name: problems_of(e) for e in parameters.entries()}
    assert {name: texts for name, texts in problems.items() if texts} == {}


@pytest.mark.parametrize(
    "text", ["Its name.", "Of all LiDARs. Increase it.", "the name of the frame."]
)
def test_fragments_are_not_full_descriptions(text: str) -> None:
    assert problems_of(parameters.ParameterEntry("a", "", text))


def test_the_table_has_every_parameter_once() -> None:
    names = re.findall(r"^\| `([\w.]+)` \|", parameters.parameter_table(), re.M)
    assert names == [e.name for e in parameters.entries()]


@pytest.mark.parametrize("option", ["--yaml", "--markdown"])
def test_the_parameters_are_printed_without_rclpy(option: str) -> None:
    code = (
        "import sys; sys.modules['rclpy'] = sys.modules['rcl_interfaces'] = None;"
        f" from multimodal_perception.ros.parameters import main; main(['{option}'])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout
    expected = parameters.parameter_file() if option == "--yaml" else parameters.parameter_table()
    assert output == expected


def test_the_shipped_file_is_generated_and_contains_the_defaults() -> None:
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


def test_unchanged_parameters_give_the_defaults(node: Node) -> None:
    assert asdict(parameters.read(node)) == asdict(parameters.NodeConfig())


@pytest.mark.parametrize(
    ("text", "cameras", "words"),
    [
        (None, (), ""),
        ("[front, rear]", ("front", "rear"), ""),
        ("[]", (), ""),
        ("front", (), "pipeline.rgb_thermal_segmenter.cameras"),
        ("[1, 2]", (), "pipeline.rgb_thermal_segmenter.cameras"),
    ],
)
def test_a_node_reads_a_parameter_file_with_empty_lists(
    text: str | None, cameras: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    """text: value of a list that is empty by default; None for the shipped file."""
    path = share_path("config", "perception.yaml")
    if text is not None:
        path = tmp_path / "parameters.yaml"
        path.write_text(
            f"/**: {{ros__parameters: {{pipeline.rgb_thermal_segmenter.cameras: {text}}}}}\n"
        )
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
            assert read.pipeline.rgb_thermal_segmenter.cameras == cameras
            assert text is not None or asdict(read) == asdict(parameters.NodeConfig())
    finally:
        made.destroy_node()
        rclpy.shutdown(context=context)


def test_the_node_refuses_values_of_wrong_type_or_out_of_range(node: Node) -> None:
    def change(name: str, value: object) -> bool:
        return node.set_parameters([Parameter(name, value=value)])[0].successful

    assert change("pipeline.geometric.min_score", 0.7)
    assert parameters.read(node).pipeline.geometric.min_score == 0.7
    assert not change("pipeline.geometric.min_score", 1.7)
    assert not change("pipeline.geometric.min_score", "high")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "pipeline.detector",
            "magic",
            "detector: 'magic' is not known; allowed: auto",
        ),
        ("pipeline.geometric.height_range", [2.0, 1.0], "geometric: "),
        ("pipeline.geometric.height_range", [1.0], "expected 2 values"),
    ],
)
def test_values_that_contradict_each_other_are_refused_with_the_key(
    node: Node, name: str, value: object, words: str
) -> None:
    assert node.set_parameters([Parameter(name, value=value)])[0].successful
    with pytest.raises(ConfigurationError, match=words):
        parameters.read(node)
