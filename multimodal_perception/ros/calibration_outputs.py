"""The registration watch beside the pipeline: looks in the background, its verdicts in diagnostics."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from multimodal_perception.calibration_monitor.monitor import Drift, RegistrationWatch, WatchConfig
from multimodal_perception.frame import SensorFrame
from multimodal_perception.geometry.stamps import NANOSECONDS
from multimodal_perception.messages.message_types import MessageTypes
from multimodal_perception.perception import Level
from multimodal_perception.ros import diagnostics
from multimodal_perception.ros.worker import NewestFirstWorker

# Of the watch's thread against the others', as of `nice`.
NICENESS = 5


class RegistrationOutputs:
    """Takes a frame now and then, looks at it on a thread of its own, and never waits for that.

    A frame that is due while the last look still goes on is passed over and counted. agreement: see
    RegistrationWatch; replaced whole after each look.
    """

    def __init__(
        self, types: MessageTypes, config: WatchConfig, on_error: Callable[[Exception], None]
    ) -> None:
        self.watch = RegistrationWatch(config)
        self.agreement: Mapping[str, float] = {}
        self.passed_over = 0
        self._types = types
        self._period_ns = round(config.period_s * NANOSECONDS)
        self._last_ns: int | None = None
        self._stopping = threading.Event()
        self.watch.cancelled = self._stopping.is_set
        self._idle = threading.Event()
        self._idle.set()
        self._worker = NewestFirstWorker(self._look, on_error, "registration")

    def offer(self, frame: SensorFrame) -> bool:
        """Look at the frame if a look is due and the last one is done. Returns at once: whether."""
        last_ns = self._last_ns
        if last_ns is not None and 0 <= frame.stamp_ns - last_ns < self._period_ns:
            return False
        if not self._idle.is_set():
            self.passed_over += 1
            return False
        self._last_ns = frame.stamp_ns
        self._idle.clear()
        self._worker.submit(frame)
        return True

    def stop(self) -> bool:
        """End the thread, and a look that goes on. False if it is still busy after some seconds.

        A thread that is still in a library's code as the interpreter ends would abort the process.
        """
        self._stopping.set()
        return self._worker.stop()

    def statuses(self, node: str) -> list[Any]:
        """A DiagnosticStatus by pair of sensors that was looked at."""
        drifts = self.watch.drifts
        counts = dict(self.watch.counts)
        result = []
        for name in sorted({key.rpartition(".")[0] for key in counts}):
            drift = next((d for pair, d in drifts.items() if str(pair) == name), None)
            own = {k.rpartition(".")[2]: n for k, n in counts.items() if k.startswith(f"{name}.")}
            values = {**(_figures(drift) if drift else {}), **own, "passed_over": self.passed_over}
            level = drift.level if drift else Level.OK
            message = drift.message if drift else "not seen well enough to be judged"
            title = f"{node}: registration of {name}"
            result.append(diagnostics.status(self._types, title, level, message, values))
        return result

    def _look(self, frame: SensorFrame) -> None:
        with suppress(OSError, AttributeError):  # Linux lets each thread have its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self.watch.observe(frame)
            self.agreement = self.watch.agreement
        finally:
            self._idle.set()


def _figures(drift: Drift) -> dict[str, Any]:
    """Values with one standard deviation each, in pixels of the sensor's image and degrees."""
    deviations = np.degrees(np.sqrt(np.diag(drift.covariance)))
    figures: dict[str, Any] = {"angle_deg": drift.degrees, "angle_sd_deg": drift.degrees_sd}
    for axis, shift, sd in zip("xy", drift.shift, drift.shift_sd, strict=True):
        figures |= {f"shift_{axis}_px": float(shift), f"shift_{axis}_sd_px": float(sd)}
    for axis, turn, sd in zip("xyz", np.degrees(drift.turn), deviations, strict=True):
        figures |= {f"turn_{axis}_deg": float(turn), f"turn_{axis}_sd_deg": float(sd)}
    return {**figures, "sureness": drift.sureness, "looks_judged": drift.looks}
