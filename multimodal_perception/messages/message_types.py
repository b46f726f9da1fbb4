"""Creation of ROS messages by type name, with the classes of rclpy or of rosbags."""

from __future__ import annotations

import array
import importlib
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# numpy type codes to type codes of array.array.
ARRAY_CODES = {"u1": "B", "i1": "b", "u2": "H", "f4": "f", "f8": "d"}


class MessageTypes(Protocol):
    """Creates messages of one implementation: rclpy (RclpyTypes) or rosbags (RosbagsTypes)."""

    def new(self, name: str, /, **fields: Any) -> Any:
        """Create a message, for example new("std_msgs/msg/Header", stamp=..., frame_id=...)."""

    def values(self, data: NDArray[Any]) -> Any:
        """Convert an array to a type that message fields accept without checking each element."""


class RclpyTypes:
    """Message classes of the installed ROS 2."""

    def new(self, name: str, /, **fields: Any) -> Any:
        return message_class(name)(**fields)

    def values(self, data: NDArray[Any]) -> array.array[Any]:
        # rclpy checks every element of any type except array.array, which takes a second per image.
        result = array.array(ARRAY_CODES[data.dtype.str[1:]])
        result.frombytes(np.ascontiguousarray(data).tobytes())
        return result


@cache
def message_class(name: str) -> type:
    """Return the rclpy class of a type such as "sensor_msgs/msg/Image"."""
    package, interface, message = name.split("/")
    return getattr(importlib.import_module(f"{package}.{interface}"), message)
