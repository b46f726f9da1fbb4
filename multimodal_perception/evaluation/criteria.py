"""Acceptance criteria of an evaluation: limits of figures by class and distance, from a YAML file.

    criteria:
      - {figure: map, min: 0.5}
      - {figure: ap, class: pedestrian, distance: 0-15, min: 0.4}
      - {figure: false_positives_per_frame, max: 1.0}
      - {figure: miou, at: rows.segmentation, min: 0.45}

A figure is a key of the JSON result, or of one of its parts `nuscenes` and `tracking`. `at` is the path
of keys in the JSON result, separated by dots, where the figure is looked up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import ConfigurationError, build, load_yaml

# Parts of a result in which a figure is looked up, in this order.
PARTS = ("", "nuscenes", "tracking")
BY_CLASS = ("by_class", "classes")
MAX_CRITERIA = 1000


@dataclass(frozen=True)
class Criterion:
    """One limit. class_name, distance: "" for all. at: path of the part of the result."""

    figure: str
    class_name: str = ""
    distance: str = ""
    at: str = ""
    min: float | None = None
    max: float | None = None

    @property
    def name(self) -> str:
        """The figure and where it holds, for messages."""
        words = [f"{self.at}.{self.figure}" if self.at else self.figure, self.class_name]
        words.append(f"{self.distance} m" if self.distance else "")
        return " ".join(w for w in words if w)

    @property
    def limit(self) -> str:
        """The allowed values, such as ">= 0.5"."""
        limits = [f">= {self.min:g}" if self.min is not None else ""]
        limits.append(f"<= {self.max:g}" if self.max is not None else "")
        return " and ".join(x for x in limits if x)


@dataclass(frozen=True)
class CriterionResult:
    """A criterion, the measured value (NaN if it was not measured) and whether it is met."""

    criterion: Criterion
    value: float
    passed: bool


@dataclass(frozen=True)
class _CriteriaFile:
    """criteria: list of the limits, each a mapping with figure, class, distance, at, min and max."""

    criteria: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    """The keys of one criterion apart from `class`, which is a keyword of Python."""

    figure: str
    distance: str = ""
    at: str = ""
    min: float | None = None
    max: float | None = None


def load_criteria(path: Path) -> list[Criterion]:
    """Read a criteria file. Raises ConfigurationError that names the file and the key."""
    rows = build(_CriteriaFile, load_yaml(path), str(path)).criteria
    if not 0 < len(rows) <= MAX_CRITERIA:
        raise ConfigurationError(f"{path}: criteria: expected 1 to {MAX_CRITERIA} entries")
    result = []
    for i, row in enumerate(rows):
        key = f"criteria.{i}"
        if not isinstance(row, Mapping):
            raise ConfigurationError(f"{path}: {key}: expected a mapping with the key figure")
        name = row.get("class", "")
        entry = build(_Entry, {k: v for k, v in row.items() if k != "class"}, str(path), key)
        limits = [v for v in (entry.min, entry.max) if v is not None]
        if not isinstance(name, str):
            raise ConfigurationError(f"{path}: {key}.class: expected a class name")
        if not limits or not all(math.isfinite(v) for v in limits):
            raise ConfigurationError(f"{path}: {key}: needs min or max, finite numbers")
        result.append(Criterion(entry.figure, name, entry.distance, entry.at, entry.min, entry.max))
    return result


def check_criteria(
    result: Mapping[str, Any], criteria: Sequence[Criterion], source: str
) -> list[CriterionResult]:
    """Compare a result with the limits. A figure that was not measured (NaN) fails.

    source: of the criteria, for messages. Raises ConfigurationError for a figure, class or distance that
    the result does not have.
    """
    checked = []
    for criterion in criteria:
        value = _find(result, criterion, source)
        passed = math.isfinite(value)
        passed &= criterion.min is None or value >= criterion.min
        passed &= criterion.max is None or value <= criterion.max
        checked.append(CriterionResult(criterion, value, passed))
    return checked


def _find(result: Mapping[str, Any], criterion: Criterion, source: str) -> float:
    known: set[str] = set()
    for part in _parts(result, criterion):
        for node in _nodes(part, criterion):
            known |= {str(k) for k, v in node.items() if _is_number(v)}
            if criterion.figure in node and _is_number(node[criterion.figure]):
                value = node[criterion.figure]
                return math.nan if value is None else float(value)
    found = ", ".join(sorted(known)[:40]) or "none"
    raise ConfigurationError(
        f"{source}: {criterion.name}: the result has no such figure; figures there: {found}"
    )


def _parts(result: Mapping[str, Any], criterion: Criterion) -> Iterator[Mapping[str, Any]]:
    if criterion.at:
        part = _descend(result, criterion.at)
        if part is not None:
            yield part
        return
    for name in PARTS:
        part = result if not name else result.get(name)
        if isinstance(part, Mapping):
            yield part


def _descend(result: Mapping[str, Any], path: str) -> Mapping[str, Any] | None:
    """The part at a path. Keys may contain dots themselves: the longest key that fits is taken."""
    words = path.split(".")
    for n in range(len(words), 0, -1):
        part = result.get(".".join(words[:n]))
        if isinstance(part, Mapping):
            return part if n == len(words) else _descend(part, ".".join(words[n:]))
    return None


def _nodes(part: Mapping[str, Any], criterion: Criterion) -> Iterator[Mapping[str, Any]]:
    """The mappings of a part that hold the figures of a class and a distance."""
    node: Any = part
    if criterion.distance:
        node = node.get("by_distance", {}).get(criterion.distance)
    if not isinstance(node, Mapping):
        return
    if not criterion.class_name:
        yield node
        return
    for key in BY_CLASS:
        values = node.get(key)
        if isinstance(values, Mapping) and isinstance(values.get(criterion.class_name), Mapping):
            yield values[criterion.class_name]
    # Figures that are mappings by class themselves, such as iou of the segmentation.
    by_name = {
        name: values[criterion.class_name]
        for name, values in node.items()
        if isinstance(values, Mapping) and _is_number(values.get(criterion.class_name, ""))
    }
    if by_name:
        yield by_name


def _is_number(value: Any) -> bool:
    """Whether a value is a number; null in JSON is a figure that was not measured."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
