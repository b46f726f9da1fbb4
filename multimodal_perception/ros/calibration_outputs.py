"""The calibration monitor in the node: measures in a background thread, reports in diagnostics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from multimodal_perception.calibration_monitor.monitor import (
    CalibrationMonitor,
    CalibrationMonitorConfig,
    Drift,
)
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.stamps import NANOSECONDS_PER_SECOND
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import Level
from multimodal_perception.ros import diagnostics
from multimodal_perception.ros.worker import NewestFirstWorker

# Scheduling priority of the measurement thread, as of `nice`.
NICENESS = 5


class CalibrationOutputs:
    """Measures the calibration of one frame per period in a background thread, without blocking.

    A frame that is due while the last measurement is still running is skipped and counted. agreement:
    see CalibrationMonitor.agreement; the mapping is replaced after each measurement.
    """

    def __init__(
        self,
        types: MessageTypes,
        config: CalibrationMonitorConfig,
        on_error: Callable[[Exception], None],
    ) -> None:
        self.monitor = CalibrationMonitor(config)
        self.agreement: Mapping[str, float] = {}
        self.skipped_frames = 0
        self._types = types
        self._period_ns = round(config.period_s * NANOSECONDS_PER_SECOND)
        self._last_ns: int | None = None
        self._stopping = threading.Event()
        self.monitor.cancelled = self._stopping.is_set
        self._idle = threading.Event()
        self._idle.set()
        self._worker = NewestFirstWorker(self._measure, on_error, "calibration_monitor")

    def offer(self, frame: SensorFrame) -> bool:
        """Start a measurement of the frame if one is due and the last one is done; returns whether.

        Returns immediately.
        """
        last_ns = self._last_ns
        if last_ns is not None and 0 <= frame.stamp_ns - last_ns < self._period_ns:
            return False
        if not self._idle.is_set():
            self.skipped_frames += 1
            return False
        self._last_ns = frame.stamp_ns
        self._idle.clear()
        self._worker.submit(frame)
        return True

    def stop(self) -> bool:
        """Stop the thread and a running measurement. Returns False if it is busy after some seconds.

        A thread that executes library code while the interpreter exits would abort the process.
        """
        self._stopping.set()
        return self._worker.stop()

    def statuses(self, node: str) -> list[Any]:
        """One DiagnosticStatus for each sensor pair that was measured."""
        drifts = self.monitor.drifts
        counts = dict(self.monitor.counts)
        result = []
        for name in sorted({key.rpartition(".")[0] for key in counts}):
            drift = next((d for pair, d in drifts.items() if str(pair) == name), None)
            prefix = f"{name}."
            pair_counts = {
                k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)
            }
            values = _figures(drift) if drift else {}
            values |= {**pair_counts, "skipped_frames": self.skipped_frames}
            level = drift.level if drift else Level.OK
            message = drift.message if drift else "no usable measurement yet"
            title = f"{node}: calibration of {name}"
            result.append(diagnostics.status(self._types, title, level, message, values))
        return result

    def _measure(self, frame: SensorFrame) -> None:
        with suppress(OSError, AttributeError):  # Linux has a priority for each thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self.monitor.observe(frame)
            self.agreement = self.monitor.agreement
        finally:
            self._idle.set()


def _figures(drift: Drift) -> dict[str, Any]:
    """Drift values and standard deviations (sd), in degrees and in pixels of the sensor's image."""
    deviations = np.degrees(np.sqrt(np.diag(drift.covariance)))
    figures: dict[str, Any] = {"angle_deg": drift.degrees, "angle_sd_deg": drift.degrees_sd}
    for axis, shift, sd in zip("xy", drift.shift, drift.shift_sd, strict=True):
        figures |= {f"shift_{axis}_px": float(shift), f"shift_{axis}_sd_px": float(sd)}
    for axis, angle, sd in zip("xyz", np.degrees(drift.rotation), deviations, strict=True):
        figures |= {f"rotation_{axis}_deg": float(angle), f"rotation_{axis}_sd_deg": float(sd)}
    if drift.pose_error is not None:
        error = drift.pose_error
        deviations = np.sqrt(np.diag(error.covariance)[3:])
        for axis, value, sd in zip("xyz", error.translation, deviations, strict=True):
            figures |= {
                f"translation_{axis}_m": float(value),
                f"translation_{axis}_sd_m": float(sd),
            }
        figures["translation_significance"] = error.translation_significance
    return {
        **figures,
        "significance": drift.significance,
        "measurements_used": drift.measurements,
    }
