"""Random mutations of bytes, of JSON and YAML values, and of ROS messages."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import numpy as np
import yaml

# Values at the limits of their types, of wrong types, and texts with special meanings.
EXTREME_VALUES: tuple[Any, ...] = (
    None,
    "",
    "x" * 5000,
    "../../../../tmp/x",
    "a\0b",
    "\ud800",
    "NaN",
    "1:30",
    -1,
    0,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**40,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    True,
    [],
    {},
    [[]],
    [0.0] * 1000,
    {"a": {"b": []}},
    [None],
)
MALFORMED_TEXT = (
    b"\0", b"\xff\xfe", b"nan", b"inf", b"-1", b"1e999", b"[[[[", b"{{{{", b"&a *a", b"!!python/none",
    b"\n---\n", b"'", b'"', b"\t", b"9" * 400, b": ", b"\xc3", b"\r\n", b"../", b"%s%n",
)  # fmt: skip
EXTREME_INTEGERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
EXTREME_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e20, -1e20, 3.4e38, np.nan, np.inf, -np.inf)


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one to four changes: flipped bits, cuts, copies, insertions, extreme values."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        position = int(rng.integers(0, len(data) + 1))
        length = min(int(rng.integers(1, 65)), len(data) - position)
        choice = rng.integers(0, 7)
        if choice == 0 and data:
            data[position % len(data)] ^= 1 << int(rng.integers(0, 8))
        elif choice == 1:
            del data[position:]
        elif choice == 2:
            del data[position : position + length]
        elif choice == 3:
            source = int(rng.integers(0, len(data) + 1))
            data[position:position] = data[source : source + length]
        elif choice == 4:
            data[position : position + length] = rng.bytes(length)
        elif choice == 5:
            data[position:position] = MALFORMED_TEXT[rng.integers(0, len(MALFORMED_TEXT))]
        else:
            size = int(rng.choice((2, 4, 8)))
            value = EXTREME_INTEGERS[rng.integers(0, len(EXTREME_INTEGERS))] % 2 ** (8 * size)
            data[position : position + size] = value.to_bytes(size, "little")
    return bytes(data)


def mutate_values(content: Any, rng: np.random.Generator) -> Any:
    """A copy of parsed JSON or YAML in which one to three values or keys are changed."""
    content = copy.deepcopy(content)
    for _ in range(rng.integers(1, 4)):
        parents = _containers(content)
        if not parents:
            return _extreme_value(rng)
        parent = parents[rng.integers(0, len(parents))]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[rng.integers(0, len(keys))]
        choice = rng.integers(0, 5)
        if choice == 0:
            del parent[key]
        elif choice == 1 and isinstance(parent, dict):
            parent[f"{key}_"] = parent.pop(key)
        elif choice == 2:
            other = parents[rng.integers(0, len(parents))]
            parent[key] = copy.deepcopy(other)
        else:
            parent[key] = _extreme_value(rng)
    return content


def _extreme_value(rng: np.random.Generator) -> Any:
    return copy.deepcopy(EXTREME_VALUES[rng.integers(0, len(EXTREME_VALUES))])


def _containers(content: Any) -> list[Any]:
    """All non-empty dictionaries and lists within a value."""
    found, pending = [], [content]
    while pending:
        value = pending.pop()
        if isinstance(value, (dict, list)) and value:
            found.append(value)
            pending += value.values() if isinstance(value, dict) else value
    return found


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate a JSON file by its values, or sometimes by its bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    return json.dumps(mutate_values(json.loads(content), rng)).encode("utf-8", "surrogatepass")


def mutate_yaml(content: bytes, rng: np.random.Generator) -> bytes:
    """Mutate a YAML file by its values, or sometimes by its bytes."""
    if rng.random() < 0.4:
        return mutate_bytes(content, rng)
    values = mutate_values(yaml.safe_load(content), rng)
    return yaml.safe_dump(values).encode("utf-8", "surrogatepass")


def mutate_message(message: Any, rng: np.random.Generator, changes: int = 2) -> Any:
    """A copy of a ROS message (rosbags) with changed fields; their types stay valid."""
    message = copy.deepcopy(message)
    for _ in range(rng.integers(1, changes + 1)):
        fields = _message_fields(message)
        holder, key = fields[rng.integers(0, len(fields))]
        value = holder[key] if isinstance(holder, list) else getattr(holder, key)
        value = _mutate_field(value, rng)
        if isinstance(holder, list):
            holder[key] = value
        else:
            setattr(holder, key, value)
    return message


def _message_fields(message: Any) -> list[tuple[Any, Any]]:
    """(holder, attribute or index) of all fields of a message and of the messages in it."""
    found: list[tuple[Any, Any]] = []
    pending = [message]
    while pending:
        value = pending.pop()
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                if not field.name.startswith("_"):
                    found.append((value, field.name))
                    pending.append(getattr(value, field.name))
        elif isinstance(value, list):
            found += [
                (value, i) for i in range(len(value)) if not dataclasses.is_dataclass(value[i])
            ]
            pending += value[:16]
    return found


def _mutate_field(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, np.integer)):
        return int(EXTREME_INTEGERS[rng.integers(0, len(EXTREME_INTEGERS) - 2)])
    if isinstance(value, (float, np.floating)):
        return float(EXTREME_FLOATS[rng.integers(0, len(EXTREME_FLOATS))])
    if isinstance(value, str):
        texts = ("", "x" * 1000, "\0", "é", "rgb8", "16UC1", "32FC1", "base_link", "a/b", "  ")
        return texts[rng.integers(0, len(texts))]
    if isinstance(value, list):
        return _mutate_list(value, rng)
    if isinstance(value, np.ndarray):
        return _mutate_array(value, rng)
    return value


def _mutate_list(values: list[Any], rng: np.random.Generator) -> list[Any]:
    choice = rng.integers(0, 3)
    if choice == 0 or not values:
        return []
    if choice == 1:
        return [*values, copy.deepcopy(values[rng.integers(0, len(values))])]
    return [values[i] for i in rng.permutation(len(values))[: rng.integers(0, len(values) + 1)]]


def _mutate_array(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    choice = rng.integers(0, 4)
    if choice == 0:
        return values[: rng.integers(0, len(values) + 1)].copy()
    if choice == 1:
        raw = rng.bytes(min(values.nbytes, 4096) // values.itemsize * values.itemsize)
        changed = values.copy()
        changed[: len(raw) // values.itemsize] = np.frombuffer(raw, values.dtype)
        return changed
    changed = values.copy()
    if len(changed):
        rows = rng.integers(0, len(changed), max(1, len(changed) // 50))
        if changed.dtype.kind == "f":
            changed[rows] = rng.choice(EXTREME_FLOATS, len(rows)).astype(changed.dtype)
        else:
            limits = np.iinfo(changed.dtype)
            changed[rows] = limits.max if choice == 2 else limits.min
    return changed
