"""Dataclasses with arrays as JSON values and back, without pickle.

Only dataclasses of this package are restored; their names are looked up in its modules.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "multimodal_perception."
# Keys of an object that is not a plain mapping.
KIND, VALUE = "__kind__", "value"


def encode(value: Any) -> Any:
    """JSON value of numbers, texts, bytes, arrays, containers, enumerations and dataclasses.

    Raises TypeError for any other type.
    """
    if value is None or (isinstance(value, (str, bool, int)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {KIND: "float", VALUE: repr(value)}
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise TypeError("arrays of objects")
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {KIND: "array", "dtype": value.dtype.str, "shape": list(value.shape), VALUE: data}
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, bytes):
        return {KIND: "bytes", VALUE: base64.b64encode(value).decode("ascii")}
    if isinstance(value, Path):
        return {KIND: "path", VALUE: str(value)}
    if isinstance(value, enum.Enum):
        return {KIND: "enum", "type": _name(type(value)), VALUE: encode(value.value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {KIND: "dataclass", "type": _name(type(value)), VALUE: fields}
    if isinstance(value, dict):
        kind = "counter" if isinstance(value, Counter) else "dict"
        return {KIND: kind, VALUE: [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, (set, frozenset)):
        items = sorted((encode(v) for v in value), key=repr)
        return {KIND: "frozenset" if isinstance(value, frozenset) else "set", VALUE: items}
    if isinstance(value, tuple):
        return {KIND: "tuple", VALUE: [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no JSON value")


def decode(value: Any) -> Any:
    """The value of `encode`. Raises ValueError, LookupError or TypeError for other content."""
    if isinstance(value, list):
        return [decode(v) for v in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[KIND], value[VALUE]
    if kind == "float":
        return float(content)
    if kind == "array":
        data = base64.b64decode(content, validate=True)
        dtype = np.dtype(value["dtype"])
        if dtype.hasobject:
            raise ValueError("arrays of objects")
        return np.frombuffer(data, dtype).reshape(value["shape"]).copy()
    if kind == "bytes":
        return base64.b64decode(content, validate=True)
    if kind == "path":
        return Path(content)
    if kind in ("dict", "counter"):
        items = {decode(k): decode(v) for k, v in content}
        return Counter(items) if kind == "counter" else items
    containers = {"tuple": tuple, "set": set, "frozenset": frozenset}
    if kind in containers:
        return containers[kind](decode(v) for v in content)
    if kind == "enum":
        return _type(value["type"], enum.Enum)(decode(content))
    if kind == "dataclass":
        cls = _type(value["type"], None)
        fields = {k: decode(v) for k, v in content.items()}
        known = {f.name: f for f in dataclasses.fields(cls)}
        restored = cls(**{k: v for k, v in fields.items() if known[k].init})
        for name in (k for k in fields if not known[k].init):
            object.__setattr__(restored, name, fields[name])
        return restored
    raise ValueError(f"unknown kind {kind!r}")


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _type(name: str, base: type | None) -> Any:
    """A dataclass, or a subclass of `base`, of this package."""
    module, _, attribute = name.partition(":")
    if not module.startswith(PACKAGE) or not attribute.isidentifier():
        raise LookupError(f"{name}: not a class of this package")
    cls = getattr(importlib.import_module(module), attribute)
    allowed = issubclass(cls, base) if base is not None else dataclasses.is_dataclass(cls)
    if not isinstance(cls, type) or not allowed:
        raise LookupError(f"{name}: not a class of data")
    return cls
