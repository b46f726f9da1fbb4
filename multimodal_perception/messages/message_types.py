"""Message classes by name, from rclpy or from rosbags, behind one protocol."""

from __future__ import annotations

import array
import importlib
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ARRAY_CODES = {"u1": "B", "i1": "b", "u2": "H", "f4": "f", "f8": "d"}


class MessageTypes(Protocol):
    """Whose message classes to build."""

    def new(self, name: str, /, **fields: Any) -> Any:
        """A message such as new("std_msgs/msg/Header", stamp=..., frame_id=...)."""

    def values(self, data: NDArray[Any]) -> Any:
        """An array in the form that the classes take without checking each element."""


class RclpyTypes:
    """The classes of a sourced or installed ROS 2."""

    def new(self, name: str, /, **fields: Any) -> Any:
        return message_class(name)(**fields)

    def values(self, data: NDArray[Any]) -> array.array[Any]:
        # rclpy checks every element of anything but an array.array: a second for an image.
        result = array.array(ARRAY_CODES[data.dtype.str[1:]])
        result.frombytes(np.ascontiguousarray(data).tobytes())
        return result


@cache
def message_class(name: str) -> type:
    """rclpy's class of a type such as "sensor_msgs/msg/Image"."""
    package, kind, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), message)
