"""Allowed values of the command line's options, checked while the arguments are parsed.

One table for all commands: the range of an option contains what any command accepts. A command that
accepts less checks the value again before it starts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multimodal_perception.files import FileError, UserError, user_path

MAX_SEED = 2**32 - 1
DEFAULT_RANGE = (-1e9, 1e9)
# Minimum and maximum of the numeric options, both included.
RANGES: dict[str, tuple[float, float]] = {
    "--attack": (0.0, 255.0),
    "--attack-runs": (1, 10_000),
    "--attack-steps": (1, 1000),
    "--batch": (1, 64),
    "--count": (1, 100_000_000),
    "--dla-core": (-1, 15),
    "--drives": (1, 100_000),
    "--dropout": (0.0, 0.95),
    "--extent": (0.5, 1000.0),
    "--fill": (0, 255),
    "--first-class": (0, 1),
    "--first-batch": (0, 10_000_000),
    "--frame": (0, 100_000_000),
    "--frame-indices": (0, 100_000_000),
    "--frame-interval": (1, 10_000),
    "--frames": (1, 10_000_000),
    "--frames-per-seed": (1, 1000),
    "--history": (0, 1000),
    "--hours": (0.0, 100_000.0),
    "--jitters": (0, 10_000),
    "--limit": (1, 10_000_000),
    "--loops": (1, 10_000_000),
    "--max-range": (0.5, 1000.0),
    "--memory": (16, 1_000_000),
    "--mean": (-1e4, 1e4),
    "--min-height": (0.0, 10_000.0),
    "--min-points": (0, 1_000_000),
    "--min-score": (0.0, 1.0),
    "--minutes": (0.05, 10_000.0),
    "--monte-carlo": (1, 1000),
    "--port": (1, 65_535),
    "--precision": (0.0, 1.0),
    "--processes": (1, 1024),
    "--random-seed": (0, MAX_SEED),
    "--rate": (0.01, 1000.0),
    "--recall-min-score": (0.0, 1.0),
    "--repeats": (1, 100_000),
    "--rotations": (0, 10_000),
    "--scale": (1e-6, 1e4),
    "--seconds": (0.01, 1e7),
    "--seconds-per-batch": (1.0, 1e6),
    "--seed": (0, MAX_SEED),
    "--severities": (1, 5),
    "--size": (32, 16_384),
    "--std": (1e-6, 1e4),
    "--threads": (0, 1024),
    "--tiles": (1, 64),
    "--translations": (0, 10_000),
    "--web-port": (1, 65_535),
    "--window": (0, 10_000),
    "--workers": (0, 64),
    "--workspace": (1, 1_000_000),
}


def check_values(parser: argparse.ArgumentParser) -> None:
    """Make a parser check the numbers and paths of its options.

    parse_args then raises UserError for a value that is not allowed.
    """
    for action in parser._actions:
        name = action.option_strings[-1] if action.option_strings else action.dest
        if action.type in (int, float):
            known = next((n for n in action.option_strings if n in RANGES), name)
            action.type = _number(action.type, known, *RANGES.get(known, DEFAULT_RANGE))
        elif action.type is Path:
            action.type = _path(name)


def _number(convert: Any, name: str, low: float, high: float) -> Callable[[str], Any]:
    """A converter for argparse: a number within the range."""
    limits = f"a number, {low:g} to {high:g}"
    if convert is int:
        limits = f"an integer, {int(low)} to {int(high)}"

    def parse(text: str) -> Any:
        try:
            value = convert(text)
        except (ValueError, OverflowError):
            value = math.nan
        if not low <= value <= high:
            raise UserError(f"{name}: allowed: {limits}; got {text[:40]!r}")
        return value

    return parse


def _path(name: str) -> Callable[[str], Path]:
    """A converter for argparse: a path that a file system can have."""

    def parse(text: str) -> Path:
        try:
            return user_path(text)
        except FileError as error:
            raise UserError(f"{name}: {error}") from error

    return parse
