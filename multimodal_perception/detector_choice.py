"""Choice between the fusion detector and the geometric detector by the measured time of the pipeline."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from multimodal_perception.frame import Modality, SensorFrame
from multimodal_perception.latency import latency_percentiles
from multimodal_perception.perception import Level, StageStatus
from multimodal_perception.rig import Rig
from multimodal_perception.runtime.card import load_card
from multimodal_perception.runtime.measurement_file import KEEP, digest_of, stored_or_measured
from multimodal_perception.runtime.selection import measurement_key
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.sample_frame import sample_frame

log = logging.getLogger(__name__)
# Part of the frame period that remains for decoding, publication and other programs.
RESERVE = 0.2
WARM_UP_FRAMES, MEASURED_FRAMES = 3, 15
# At least one thread of an undisturbed pipeline on the CPU is always running.
MIN_CPU_FRACTION = 0.85
VERSION = 1  # of the measurement; a change makes stored results invalid


@dataclasses.dataclass(frozen=True)
class DetectorChoice:
    """The detector of `detector: auto`, and why. detector: "fusion" or "geometric"."""

    detector: str
    reason: str
    p95_ms: float = float("nan")
    limit_ms: float = float("nan")

    @property
    def status(self) -> StageStatus:
        """For /diagnostics."""
        values = {"detector": self.detector, "p95_ms": self.p95_ms, "limit_ms": self.limit_ms}
        return StageStatus("detector_choice", Level.OK, f"{self.detector}: {self.reason}", values)


def frame_period_s(rig: Rig) -> float:
    """Period of a rig's frames: of its first sensor, LiDARs before cameras, thermal cameras, ..."""
    for modality in Modality:
        for sensor in rig.sensors_of(modality).values():
            return 1.0 / sensor.rate_hz
    raise ValueError("the rig has no sensors")


def choose_by_time(p95_ms: float, rig: Rig) -> DetectorChoice:
    """Return the fusion detector if its 95th percentile leaves RESERVE of the frame period."""
    limit_ms = 1e3 * (1.0 - RESERVE) * frame_period_s(rig)
    if not rig.sensors_of(Modality.LIDAR):
        return DetectorChoice("fusion", "the rig has no LiDAR", p95_ms, limit_ms)
    relation = "at most" if p95_ms <= limit_ms else "above"
    return DetectorChoice(
        "fusion" if p95_ms <= limit_ms else "geometric",
        f"with the fusion detector, 95 % of the frames take up to {p95_ms:.0f} ms, "
        f"{relation} {limit_ms:.0f} ms ({100 * (1 - RESERVE):.0f} % of the frame period)",
        p95_ms,
        limit_ms,
    )


@dataclasses.dataclass(frozen=True)
class MeasuredTime:
    """Time per frame. disturbed: other programs used the CPU, so that the time is not reproducible."""

    p95_ms: float
    disturbed: bool


def measure_pipeline(process: Callable[[SensorFrame], Any], rig: Rig) -> MeasuredTime:
    """95th percentile of the time that `process` takes for synthetic frames of a rig.

    The sensors have other names than in the rig, so that nothing that stages keep by sensor name, such
    as contrast limits, comes from these frames.
    """
    sensors = {f"measurement_{n}": s for n, s in rig.sensors.items()}
    renamed = {n: dataclasses.replace(s, name=n) for n, s in sensors.items()}
    rig = dataclasses.replace(rig, sensors=renamed)
    times, cpu_s = [], 0.0
    for step in range(WARM_UP_FRAMES + MEASURED_FRAMES):
        frame = sample_frame(rig, step)
        start, start_cpu = time.perf_counter(), time.process_time()
        process(frame)
        if step >= WARM_UP_FRAMES:
            times.append(1e3 * (time.perf_counter() - start))
            cpu_s += time.process_time() - start_cpu
    waited = 1e3 * cpu_s < MIN_CPU_FRACTION * sum(times)
    return MeasuredTime(latency_percentiles(times)["p95"], waited)


def stored_p95_ms(
    settings: Any,
    model: str,
    runtime: RuntimeConfig,
    rig: Rig,
    measure: Callable[[], MeasuredTime],
) -> float:
    """Return the stored 95th percentile for a configuration on this computer; measure it if needed.

    A time that other programs disturbed is not stored, so that the next start measures again. settings:
    configuration of the stages, a dataclass. model: name or card of the fusion detector's first stage.
    measure: see measure_pipeline.
    """
    key = {
        "version": VERSION,
        "settings": digest_of(_plain(settings)),
        "rig": digest_of(_sensor_summary(rig)),
        **measurement_key(load_card(model), runtime),
    }
    path = runtime.cache_folder / "measurements" / f"detector_choice-{digest_of(key)[:12]}.json"

    def measure_once() -> dict[str, Any]:
        result = measure()
        if result.disturbed:
            log.warning(
                "detector auto: other programs used the CPU during the measurement "
                "(%.0f ms); it is repeated at the next start",
                result.p95_ms,
            )
        return {"p95_ms": result.p95_ms, KEEP: not result.disturbed}

    renew = runtime.measuring == "always"
    result = stored_or_measured(path, key, measure_once, renew, "detector auto")
    return float(result["p95_ms"])


def _sensor_summary(rig: Rig) -> list[Any]:
    """What the time depends on: modality, rate and image size of each sensor."""
    summary = []
    for sensor in rig.sensors.values():
        camera = sensor.intrinsics
        size = [] if camera is None else [camera.width, camera.height]
        summary.append([sensor.modality.value, sensor.rate_hz, *size])
    return summary


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value
