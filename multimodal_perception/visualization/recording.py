"""Recordings of frames and results for the Rerun viewer (.rrd)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import UserError
from multimodal_perception.frame import SensorFrame
from multimodal_perception.perception import Perception
from multimodal_perception.rig import Rig
from multimodal_perception.visualization.live_view_blueprint import sensor_blueprint
from multimodal_perception.visualization.rerun_log import APPLICATION, RerunLog, import_rerun

# With less space than this, a failed write is reported as a full disk.
MIN_FREE_BYTES = 1 << 20


def write_recording(path: Path, results: Iterable[tuple[SensorFrame, Perception]], rig: Rig) -> int:
    """Write frames with all their results, and the layout for the sensors of a rig.

    Returns the number of frames.

    Raises UserError if rerun-sdk is not installed or the file cannot be written.
    """
    rerun = import_rerun()
    stream = rerun.RecordingStream(APPLICATION)
    save(stream, path)
    stream.send_blueprint(sensor_blueprint(rerun, rig))
    log = RerunLog(rerun, stream, rig)
    count = 0
    for frame, perception in results:
        log.log_result(frame, perception)
        flush(stream, path, count)
        count += 1
    return count


def save(stream: Any, path: Path) -> None:
    """Let a rerun.RecordingStream write to a file. Raises UserError if that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream.save(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: {error}") from error


def flush(stream: Any, path: Path, count: int) -> None:
    """Wait until everything is written. count: complete frames before, for the error.

    Raises UserError if the file cannot be written any more.
    """
    try:
        stream.flush()
    except RuntimeError as error:  # the disk is full or was removed
        reason = "no space left on device" if _is_full(path) else str(error)
        raise UserError(
            f"{path}: cannot be written: {reason}; the recording contains {count} frames"
        ) from error


def _is_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < MIN_FREE_BYTES
