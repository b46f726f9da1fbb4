"""The package's log records in the node's log: severities are kept, repetitions are reduced."""

from __future__ import annotations

import logging

import pytest

from multimodal_perception.ros import package_log
from multimodal_perception.ros.package_log import PackageLog


class FakeLogger:
    """Records the calls of a node's logger."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str]] = []

    def error(self, text: str) -> None:
        self.records.append(("error", text))

    def warning(self, text: str) -> None:
        self.records.append(("warning", text))

    def info(self, text: str) -> None:
        self.records.append(("info", text))


def test_records_are_forwarded_with_their_severity_while_attached() -> None:
    log, source = FakeLogger(), logging.getLogger("multimodal_perception.runtime.open_model")
    handler = PackageLog(log)
    source.info("before")
    level = logging.getLogger("multimodal_perception").level
    handler.attach()
    try:
        source.info("%s is not used: %s", "tensorrt", "not installed")
        source.warning("continues")
        source.critical("no engine")
        source.debug("detail")
        logging.getLogger("another").error("other package")
    finally:
        handler.detach()
    source.info("after")
    assert logging.getLogger("multimodal_perception").level == level
    assert log.records == [
        ("info", "tensorrt is not used: not installed"),
        ("warning", "continues"),
        ("error", "no engine"),
    ]


def test_repeated_records_are_forwarded_at_most_every_five_seconds() -> None:
    log = FakeLogger()
    handler = PackageLog(log)

    def emit(text: str, at: float) -> None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, None, None)
        record.created = at
        handler.emit(record)

    for k in range(120):
        emit("late", 0.1 * k)
    assert len(log.records) == 3
    for k in range(10 * package_log.MAX_REMEMBERED):
        emit(f"{k}", 20.0)
    assert len(handler._forwarded) <= package_log.MAX_REMEMBERED


def test_the_node_logs_which_engines_are_not_used(capfd: pytest.CaptureFixture[str]) -> None:
    import rclpy.logging

    handler = PackageLog(rclpy.logging.get_logger("perception"))
    handler.attach()
    try:
        logger = logging.getLogger("multimodal_perception.runtime.open_model")
        for level in (logging.INFO, logging.WARNING, logging.ERROR, logging.INFO):
            logger.log(level, "m: tensorrt is not used: level %d", level)
    finally:
        handler.detach()
    output = "".join(capfd.readouterr())
    assert "[INFO]" in output and "[WARN]" in output and "[ERROR]" in output
    assert "m: tensorrt is not used: level 20" in output
