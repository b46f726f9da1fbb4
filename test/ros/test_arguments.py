"""Wrong parameters, parameter files and ROS arguments end the node with one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from multimodal_perception.configuration import ConfigurationError
from multimodal_perception.ros.arguments import check_arguments, check_names, nearest_name
from multimodal_perception.ros.parameters import entries

KNOWN = [entry.name for entry in entries()]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("/**:\n  ros__parameters:\n    deadline_s: 1.0\n    deadline_s: 2.0\n", "appears twice"),
        ("deadline_s: 0.1\n", "no key ros__parameters"),
        ("", "expected node names"),
        ("- 1\n", "expected node names"),
        ("/**:\n  ros__parameters: 5\n", "expected a mapping"),
        ("/**: &a\n  ros__parameters: {}\nx: *a\n", "aliases"),
        ("/**:\n\tros__parameters: {}\n", "line 2"),
    ],
)
def test_faulty_parameter_files_are_refused(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"p\.yaml: .*{words}"):
        check_arguments(["node", "--ros-args", "--params-file", str(path)])


def test_valid_parameter_files_and_other_arguments_pass(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("robot:\n  perception:\n    ros__parameters:\n      deadline_s: 0.1\n")
    check_arguments(["node", "--ros-args", "--params-file", str(path), "-r", "a:=b"])
    check_arguments(["node", "--params-file", "missing.yaml"])  # not a ROS argument
    with pytest.raises(ConfigurationError, match="No such file"):
        check_arguments(["--ros-args", "--params-file", str(tmp_path / "missing.yaml")])


def test_unknown_parameters_name_the_most_similar_one() -> None:
    assert nearest_name("dedline_s", KNOWN) == "deadline_s"
    assert nearest_name("pipeline.detecter", KNOWN) == "pipeline.detector"
    assert nearest_name("min_scor", KNOWN) is not None
    assert nearest_name("zzzzzz", KNOWN) is None
    check_names(["deadline_s", "use_sim_time", "qos_overrides./tf.subscription.depth"], KNOWN)
    with pytest.raises(ConfigurationError, match="did you mean deadline_s"):
        check_names(["dedline_s"], KNOWN)
    with pytest.raises(ConfigurationError, match=r"pipeline: .*group"):
        check_names(["pipeline"], KNOWN)


def run_node(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multimodal_perception.ros.node", "--ros-args", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-p", "deadline_s:=abc"), "parameter deadline_s: expected double, got string 'abc'"),
        (("-p", "deadline_s:=100.0"), "parameter deadline_s: allowed: 0.001 to 5 s; got 100.0"),
        (("-p", "dedline_s:=0.1"), "did you mean deadline_s"),
        (("-r", "nonsense"), "Couldn't parse remap rule"),
        (("--params-file", "/nonexistent.yaml"), "/nonexistent.yaml: No such file"),
        (("--log-level", "nonsense"), "log level"),
    ],
)
def test_the_node_ends_with_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    done = run_node(*arguments)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 2 and len(errors) == 1 and words in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_an_integer_is_accepted_for_a_double() -> None:
    done = run_node("-p", "deadline_s:=1", "-p", "autostart:=true")
    assert "parameter rig: missing" in done.stderr  # configured up to the rig


def test_the_node_starts_without_a_home_folder(tmp_path: Path) -> None:
    """A service or a container often has no writable home folder."""
    environment = {"HOME": "/nonexistent", "ROS_HOME": "", "ROS_LOG_DIR": ""}
    done = run_node("-p", "autostart:=true", TMPDIR=str(tmp_path), **environment)
    assert "parameter rig: missing" in done.stderr, done.stderr
