"""The package's own log in the node's: severities kept, repetitions not."""

from __future__ import annotations

import logging

import pytest

from multimodal_perception.ros import package_log
from multimodal_perception.ros.package_log import PackageLog


class Log:
    """A node's logger."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def error(self, text: str) -> None:
        self.said.append(("error", text))

    def warning(self, text: str) -> None:
        self.said.append(("warning", text))

    def info(self, text: str) -> None:
        self.said.append(("info", text))


def test_records_are_passed_on_by_severity_while_attached() -> None:
    log, source = Log(), logging.getLogger("multimodal_perception.runtime.open_model")
    handler = PackageLog(log)
    source.info("before")
    level = logging.getLogger("multimodal_perception").level
    handler.attach()
    try:
        source.info("%s is not used: %s", "tensorrt", "not installed")
        source.warning("goes on")
        source.critical("no engine")
        source.debug("detail")
        logging.getLogger("another").error("of somebody else")
    finally:
        handler.detach()
    source.info("after")
    assert logging.getLogger("multimodal_perception").level == level
    assert log.said == [
        ("info", "tensorrt is not used: not installed"),
        ("warning", "goes on"),
        ("error", "no engine"),
    ]


def test_what_every_frame_repeats_is_passed_on_now_and_then() -> None:
    log = Log()
    handler = PackageLog(log)

    def say(text: str, at: float) -> None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, None, None)
        record.created = at
        handler.emit(record)

    for k in range(120):
        say("late", 0.1 * k)
    assert len(log.said) == 3
    for k in range(10 * package_log.KNOWN):
        say(f"{k}", 20.0)
    assert len(handler._passed) <= package_log.KNOWN


def test_the_node_logs_which_engines_are_not_used(capfd: pytest.CaptureFixture[str]) -> None:
    import rclpy.logging

    handler = PackageLog(rclpy.logging.get_logger("perception"))
    handler.attach()
    try:
        opening = logging.getLogger("multimodal_perception.runtime.open_model")
        for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.INFO):
            opening.log(level, "m: tensorrt is not used: level %d", level)
    finally:
        handler.detach()
    said = "".join(capfd.readouterr())
    assert "[INFO]" in said and "[WARN]" in said and "[ERROR]" in said
    assert "m: tensorrt is not used: level 20" in said
