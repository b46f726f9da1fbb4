"""What the package says through Python's logging, passed on to the node's log."""

from __future__ import annotations

import logging
from typing import Any

PACKAGE = "multimodal_perception"
# A message that every frame repeats is passed on so often, seconds; so many different ones are known.
PAUSE_S, KNOWN = 5.0, 256


class PackageLog(logging.Handler):
    """Passes on records of the package from INFO on: which engine runs a network, why others do not."""

    def __init__(self, logger: Any) -> None:
        """logger: rclpy's, of the node."""
        super().__init__(logging.INFO)
        self._logger = logger
        self._passed: dict[str, float] = {}
        self._level = logging.getLogger(PACKAGE).level

    def attach(self) -> None:
        """Begin to pass on."""
        package = logging.getLogger(PACKAGE)
        self._level = package.level
        if package.getEffectiveLevel() > logging.INFO:
            package.setLevel(logging.INFO)
        package.addHandler(self)

    def detach(self) -> None:
        """End it; the package's level is again what it was."""
        package = logging.getLogger(PACKAGE)
        package.removeHandler(self)
        package.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. rclpy takes one severity from each line of code."""
        text = record.getMessage()
        if record.created - self._passed.get(text, float("-inf")) < PAUSE_S:
            return
        if len(self._passed) >= KNOWN:
            self._passed.clear()
        self._passed[text] = record.created
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
