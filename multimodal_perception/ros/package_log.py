"""Forwards the package's Python logging to the node's log."""

from __future__ import annotations

import logging
from typing import Any

PACKAGE = "multimodal_perception"
# Minimum interval between equal messages, seconds: some are repeated with every frame.
REPEAT_INTERVAL_S = 5.0
# Maximum number of different messages whose times are kept.
MAX_REMEMBERED = 256


class PackageLog(logging.Handler):
    """Forwards log records of the package from level INFO, such as the engine of each network."""

    def __init__(self, logger: Any) -> None:
        """logger: rclpy's logger of the node."""
        super().__init__(logging.INFO)
        self._logger = logger
        self._forwarded: dict[str, float] = {}
        self._level = logging.getLogger(PACKAGE).level

    def attach(self) -> None:
        """Start forwarding."""
        package = logging.getLogger(PACKAGE)
        self._level = package.level
        if package.getEffectiveLevel() > logging.INFO:
            package.setLevel(logging.INFO)
        package.addHandler(self)

    def detach(self) -> None:
        """Stop forwarding and restore the package's log level."""
        package = logging.getLogger(PACKAGE)
        package.removeHandler(self)
        package.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler. rclpy requires a separate call for each severity."""
        text = record.getMessage()
        if record.created - self._forwarded.get(text, float("-inf")) < REPEAT_INTERVAL_S:
            return
        if len(self._forwarded) >= MAX_REMEMBERED:
            self._forwarded.clear()
        self._forwarded[text] = record.created
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)
