"""`detector: auto` takes the fusion detector only if the pipeline is fast enough with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from multimodal_perception import detector_choice, pipeline_builder
from multimodal_perception.configuration import UserError
from multimodal_perception.detector_choice import (
    MeasuredTime,
    choose_by_time,
    frame_period_s,
    measure_pipeline,
)
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig


@pytest.fixture(scope="module")
def rig() -> Rig:
    return load_rig(resolve_rig_path("kitti"))


@pytest.fixture(autouse=True)
def measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTIMODAL_PERCEPTION_MEASURE", raising=False)


class FakeFusionDetector:
    name, uses_proposals, uses_masks, counts, status = "fusion", False, False, {}, ()

    def __init__(self, *_: object) -> None:
        self.frames: list[SensorFrame] = []

    def prepare(self, frame: SensorFrame) -> None:
        pass

    def detect(self, frame: SensorFrame, *_: object) -> Boxes3D:
        self.frames.append(frame)
        return Boxes3D.empty(frame.stamp_ns, frame.base_frame)


def config(tmp_path: Path) -> PipelineConfig:
    return PipelineConfig(runtime=RuntimeConfig(cache=str(tmp_path), device="cpu"))


def measured(monkeypatch: pytest.MonkeyPatch, result: MeasuredTime) -> list[int]:
    """Replaces the measurement by a result; returns a list that grows with each measurement."""
    calls: list[int] = []

    def measure(process: object, rig: Rig) -> MeasuredTime:
        calls.append(1)
        return result

    monkeypatch.setattr(pipeline_builder, "measure_pipeline", measure)
    monkeypatch.setattr(pipeline_builder, "BevFusionDetector", FakeFusionDetector)
    return calls


@pytest.mark.parametrize(
    ("p95_ms", "expected"), [(79.9, "fusion"), (80.0, "fusion"), (80.1, "geometric")]
)
def test_the_95th_percentile_must_leave_20_percent_of_the_lidar_period(
    p95_ms: float, expected: str, rig: Rig
) -> None:
    choice = choose_by_time(p95_ms, rig)
    assert choice.detector == expected
    assert "80 ms (80 % of the frame period)" in choice.reason
    assert choice.status.values["p95_ms"] == p95_ms


def test_the_period_is_that_of_the_lidar_and_without_lidar_of_the_camera(rig: Rig) -> None:
    sensors = {n: replace(s, rate_hz=20.0) for n, s in rig.sensors.items()}
    assert frame_period_s(replace(rig, sensors=sensors)) == 0.05
    cameras = {n: s for n, s in sensors.items() if s.modality.value == "camera"}
    without = replace(rig, sensors=cameras)
    assert frame_period_s(without) == 0.05
    assert choose_by_time(1000.0, without).detector == "fusion"  # nothing else detects there


@pytest.mark.parametrize(("p95_ms", "expected"), [(30.0, "fusion"), (200.0, "geometric")])
def test_the_result_is_stored_and_stated(
    p95_ms: float,
    expected: str,
    rig: Rig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    calls = measured(monkeypatch, MeasuredTime(p95_ms, disturbed=False))
    for _ in range(2):
        pipeline = build_pipeline(config(tmp_path), rig)
        assert pipeline.detector.name == expected
        status = pipeline.status[0]
        assert status.name == "detector_choice" and f"up to {p95_ms:.0f} ms" in status.message
    assert len(calls) == 1 and f"detector auto: {expected}" in caplog.text


def test_a_disturbed_measurement_is_used_once_and_not_stored(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = measured(monkeypatch, MeasuredTime(300.0, disturbed=True))
    for _ in range(2):
        assert build_pipeline(config(tmp_path), rig).detector.name == "geometric"
    assert len(calls) == 2 and "other programs used the CPU" in caplog.text


def test_an_engine_failure_selects_the_geometric_detector_with_the_reason(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise UserError("card.yaml: no engine works") from EngineError("no engine works")

    monkeypatch.setattr(pipeline_builder, "BevFusionDetector", fail)
    pipeline = build_pipeline(config(tmp_path), rig)
    assert pipeline.detector.name == "geometric"
    assert "no engine works" in pipeline.status[0].message


def test_a_wrong_model_is_an_error_and_no_reason_for_another_detector(
    rig: Rig, tmp_path: Path
) -> None:
    settings = config(tmp_path)
    settings = replace(settings, fusion=replace(settings.fusion, model="no_such_model"))
    with pytest.raises(UserError, match="no_such_model"):
        build_pipeline(settings, rig)


def test_measure_never_decides_without_a_measurement(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = measured(monkeypatch, MeasuredTime(1.0, disturbed=False))
    monkeypatch.setenv("MULTIMODAL_PERCEPTION_MEASURE", "never")
    assert build_pipeline(config(tmp_path), rig).detector.name == "geometric" and not calls


def test_measured_frames_have_the_sensors_of_the_rig_under_other_names(rig: Rig) -> None:
    frames: list[SensorFrame] = []
    measure_pipeline(frames.append, rig)
    assert {n.removeprefix("measurement_") for n in frames[0].present} == set(rig.sensors)
    assert not frames[0].present & set(rig.sensors)
    assert [f.stamp_ns for f in frames] == sorted({f.stamp_ns for f in frames})


def test_waiting_for_the_cpu_is_a_disturbance_and_computing_is_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clocks are replaced: threads of other tests use CPU time of this process."""
    now = {"wall": 0.0, "cpu": 0.0}
    monkeypatch.setattr(detector_choice.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(detector_choice.time, "process_time", lambda: now["cpu"])

    def run(cpu_fraction: float) -> MeasuredTime:
        def process(frame: SensorFrame) -> None:
            now["wall"] += 0.010
            now["cpu"] += 0.010 * cpu_fraction

        return measure_pipeline(process, rig)

    assert run(0.5).disturbed and not run(1.0).disturbed and not run(1.9).disturbed
    assert run(1.0).p95_ms == pytest.approx(10.0)
