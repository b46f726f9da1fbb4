"""Checks of ROS arguments and parameter files before rclpy reads them.

rclpy ignores unknown parameters and repeated keys of a parameter file, and its errors about malformed
arguments name source files of rcl. Here each fault becomes one clear line.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import ConfigurationError, load_yaml
from multimodal_perception.files import is_writable

PARAMETERS_KEY = "ros__parameters"
# Parameters that rclpy declares for every node.
COMMON_PARAMETERS = ("use_sim_time", "start_type_description_service")
QOS_PREFIX = "qos_overrides."
# Position in rcl's C sources at the end of its errors.
SOURCE_POSITION = re.compile(r",? at [^ ]*\.(?:c|cpp|hpp|h):\d+")


def ensure_log_directory() -> None:
    """Let rcl write its log to a temporary folder if the usual one is not writable.

    Without this, rclpy cannot start in a service or container without a writable home folder.
    """
    names = ("ROS_LOG_DIR", "ROS_HOME", "HOME")
    for name in names:
        if os.environ.get(name) == "":
            del os.environ[name]  # rcl takes an empty value for a path
    if "ROS_LOG_DIR" in os.environ:
        folder = Path(os.environ["ROS_LOG_DIR"])
    elif "ROS_HOME" in os.environ:
        folder = Path(os.environ["ROS_HOME"], "log")
    else:
        folder = Path(os.environ.get("HOME", "/nonexistent"), ".ros", "log")
    if is_writable(folder):
        return
    replacement = Path(tempfile.gettempdir(), f"ros_log_{os.getuid()}")
    if is_writable(replacement):
        os.environ["ROS_LOG_DIR"] = str(replacement)
        print(f"warning: {folder} is not writable; the log is in {replacement}", file=sys.stderr)


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the parameter files among a process's arguments.

    Raises ConfigurationError for a missing, malformed or too large file, a repeated key, or a file
    without parameters of any node.
    """
    for path in _parameter_files(arguments):
        _check_parameter_file(path)


def _parameter_files(arguments: Sequence[str]) -> list[Path]:
    paths = []
    inside = False
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--ros-args":
            inside = True
        elif argument == "--":
            inside = False
        elif inside and argument == "--params-file":
            if not following:
                raise ConfigurationError("--params-file: a path is missing")
            paths.append(Path(following))
    return paths


def _check_parameter_file(path: Path) -> None:
    content = load_yaml(path)
    if not isinstance(content, dict) or not content:
        raise ConfigurationError(f"{path}: expected node names with {PARAMETERS_KEY} below them")
    if not any(_parameter_sections(content)):
        raise ConfigurationError(f"{path}: no key {PARAMETERS_KEY} below a node name")
    for key, section in _parameter_sections(content):
        if not isinstance(section, dict):
            raise ConfigurationError(f"{path}: {key}: expected a mapping of parameters")


def _parameter_sections(content: dict[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Names and contents of the sections of parameters; namespaces may be nested."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        if name == PARAMETERS_KEY:
            yield key, value
        elif isinstance(value, dict):
            yield from _parameter_sections(value, f"{key}.")


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Check that all given parameters exist. Raises ConfigurationError with the most similar name."""
    known = set(known) | set(COMMON_PARAMETERS)
    unknown = sorted(n for n in given if n not in known and not n.startswith(QOS_PREFIX))
    if not unknown:
        return
    texts = []
    for name in unknown[:10]:
        if any(n.startswith(f"{name}.") for n in known):
            texts.append(f"{name}: is a group of parameters, not a value")
            continue
        close = nearest_name(name, known)
        texts.append(
            f"{name[:100]}: unknown parameter" + (f"; did you mean {close}?" if close else "")
        )
    if len(unknown) > len(texts):
        texts.append(f"and {len(unknown) - len(texts)} more")
    raise ConfigurationError("; ".join(texts))


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to a name, by all of it or by its last part."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:200], names, 1, 0.75)
    if close:
        return close[0]
    last = {n.rpartition(".")[2]: n for n in reversed(names)}
    close = difflib.get_close_matches(name.rpartition(".")[2][:200], list(last), 1, 0.75)
    return last[close[0]] if close else None


def describe_ros_error(error: Exception) -> str:
    """An exception of rclpy in one line, without positions in its sources."""
    text = " ".join(str(error).split())
    text = SOURCE_POSITION.sub("", text)
    return text.removeprefix("failed to initialize rcl: ")[:500] or type(error).__name__
