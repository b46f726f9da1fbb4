"""Changes of parameters and stages while the node is configured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node

from multimodal_perception.configuration import UserError
from multimodal_perception.ros import parameters


class LiveChanges:
    """Runs changes of the pipeline between two frames."""

    def __init__(self, is_processing: Callable[[], bool]) -> None:
        """is_processing: whether there is an inference thread, which calls `apply` before each frame."""
        self._is_processing = is_processing
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def submit(self, change: Callable[[], None]) -> None:
        """Run a change before the next frame, or now if no frames are processed. Any thread."""
        self._waiting.put(change)
        if not self._is_processing():
            self.apply()

    def apply(self) -> None:
        """Run all submitted changes."""
        while not self._waiting.empty():
            self._waiting.get()()


def check_change(
    node: Node, changed: Sequence[Any], is_configured: bool
) -> tuple[SetParametersResult, parameters.NodeConfig | None]:
    """Whether a change of parameters (rclpy's) is accepted; and the new configuration if it is in use.

    While the node is configured, only dynamic parameters can be changed, to valid values.
    """
    accepted = SetParametersResult(successful=True)
    known = {entry.name for entry in parameters.entries()} - {"autostart"}
    changes = {p.name: p.value for p in changed if p.name in known}
    if not changes or not is_configured:
        return accepted, None
    fixed = sorted(changes.keys() - parameters.dynamic_names())
    if fixed:
        hint = "read when the node is configured; deactivate and clean up the node first"
        reason = f"{', '.join(fixed)}: {hint}"
        return SetParametersResult(successful=False, reason=reason), None
    try:
        return accepted, parameters.read(node, changes)
    except UserError as error:
        return SetParametersResult(successful=False, reason=str(error)), None
