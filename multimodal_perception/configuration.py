"""Read YAML into typed dataclasses; errors name the file, the key and the allowed values."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from multimodal_perception.files import FileError, UserError, read_regular_file
from multimodal_perception.yaml_reader import YamlError, read_yaml_text

__all__ = ["ConfigurationError", "UserError", "build", "load", "load_yaml", "parse_yaml"]

T = TypeVar("T")

# Configuration files are written by hand; a larger file is a mistake or an attack.
MAX_YAML_BYTES = 1 << 20


class ConfigurationError(UserError):
    """A configuration file or value is invalid."""


def load_yaml(path: str | Path) -> Any:
    """Parse a YAML file without trusting its content.

    Raises ConfigurationError if the file is missing, not a regular file, too large, not UTF-8 or not
    YAML, if it repeats a key, or if it exceeds the limits of yaml_reader.
    """
    path = Path(path)
    try:
        text = read_regular_file(path, MAX_YAML_BYTES).decode("utf-8")
    except FileError as error:
        raise ConfigurationError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text ({error.reason})") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text. `source` is its name in errors. See load_yaml."""
    try:
        return read_yaml_text(text)
    except YamlError as error:
        raise ConfigurationError(f"{source}: {error}") from error


def build(cls: type[T], values: Any, source: str, key: str = "") -> T:
    """Build the dataclass `cls` from parsed YAML `values`.

    Checks for unknown and missing keys, types, finite numbers, enumerations (Literal and Enum), and
    nested dataclasses, lists, tuples and mappings. The metadata of a field may have `min` and `max`
    (inclusive) and `unit`. A __post_init__ method may raise ValueError for constraints that involve
    several fields.

    Raises ConfigurationError with the source, the key and the allowed values.
    """
    if not isinstance(values, Mapping):
        raise _error(source, key, f"expected a mapping, got {_describe(values)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            allowed = ", ".join(sorted(fields))
            raise _error(source, _join(key, name), f"unknown key; allowed: {allowed}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            value = _convert(hints[name], values[name], source, _join(key, name))
            _check_range(field, value, source, _join(key, name))
            arguments[name] = value
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _error(source, _join(key, name), "missing")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise _error(source, key, str(error)) from error


def load(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass `cls`. Raises ConfigurationError."""
    return build(cls, load_yaml(path), str(path))


def _convert(hint: Any, value: Any, source: str, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, source, key)
    if origin is typing.Literal:
        if value not in arguments:
            raise _error(source, key, f"allowed: {', '.join(map(str, arguments))}; got {value!r}")
        return value
    if origin in (list, tuple):
        return _convert_sequence(origin, arguments, value, source, key)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _error(source, key, f"expected a mapping, got {_describe(value)}")
        return {
            _convert(arguments[0], k, source, key): _convert(arguments[1], v, source, _join(key, k))
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return build(hint, value, source, key)  # type: ignore[arg-type]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        try:
            return hint(value)
        except ValueError:
            allowed = ", ".join(str(m.value) for m in hint)
            raise _error(source, key, f"allowed: {allowed}; got {value!r}") from None
    if hint is Any:
        return value
    return _convert_scalar(hint, value, source, key)


def _convert_union(arguments: tuple[Any, ...], value: Any, source: str, key: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    candidates = [a for a in arguments if a is not type(None)]
    for candidate in candidates[:-1]:
        try:
            return _convert(candidate, value, source, key)
        except ConfigurationError:
            continue
    return _convert(candidates[-1], value, source, key)


def _convert_sequence(
    origin: Any, arguments: tuple[Any, ...], value: Any, source: str, key: str
) -> Any:
    if not isinstance(value, (list, tuple)):
        raise _error(source, key, f"expected a list, got {_describe(value)}")
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise _error(source, key, f"expected {len(arguments)} values, got {len(value)}")
        element_types = arguments
    else:
        element_types = (arguments[0],) * len(value)
    items = (
        _convert(t, v, source, f"{key}[{i}]")
        for i, (t, v) in enumerate(zip(element_types, value, strict=True))
    )
    return origin(items)


def _convert_scalar(hint: Any, value: Any, source: str, key: str) -> Any:
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise _error(source, key, "must be finite")
        return number
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    name = getattr(hint, "__name__", str(hint))
    raise _error(source, key, f"expected {name}, got {_describe(value)}")


def _check_range(field: dataclasses.Field[Any], value: Any, source: str, key: str) -> None:
    if not isinstance(value, (int, float)):
        return
    low, high = field.metadata.get("min", -math.inf), field.metadata.get("max", math.inf)
    if not low <= value <= high:
        unit = f" {field.metadata['unit']}" if "unit" in field.metadata else ""
        raise _error(source, key, f"allowed: {low} to {high}{unit}; got {value}")


def _describe(value: Any) -> str:
    text = repr(value) if not isinstance(value, (list, tuple, dict)) else f"of {len(value)} values"
    return f"{type(value).__name__} {text[:60]}"


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _error(source: str, key: str, message: str) -> ConfigurationError:
    return ConfigurationError(f"{source}: {key}: {message}" if key else f"{source}: {message}")
