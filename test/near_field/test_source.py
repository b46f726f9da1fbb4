"""The shipped near field on a simulated frame: evidence where sensors reach, and in the pipeline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from multimodal_perception.configuration import UserError, build, load_yaml
from multimodal_perception.frame import SensorFrame
from multimodal_perception.near_field.network_inputs import CELLS, RESOLUTION
from multimodal_perception.near_field.source import NearFieldConfig, NearFieldSource
from multimodal_perception.occupancy.layers import SEMANTIC_LAYER
from multimodal_perception.pipeline import PipelineConfig, build_pipeline
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig, rig_path
from multimodal_perception.runtime.engine import EngineError
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.simulation.simulation import Simulation
from multimodal_perception.simulation.truth import GridLayout
from multimodal_perception.training.near_field.dataset import UNSEEN, cell_labels

CPU = RuntimeConfig(order=("onnxruntime",), threads=1)
MODEL = NearFieldConfig(model="near_field")


@pytest.fixture(scope="module")
def drive() -> Simulation:
    layout = GridLayout(CELLS * RESOLUTION / 2, RESOLUTION / 4)
    rig = load_rig(rig_path("near_field"))
    return Simulation("parking_lot", rig, 10001, 60, grid=layout)


@pytest.fixture(scope="module")
def frame(drive: Simulation) -> SensorFrame:
    return drive[50]


@pytest.fixture(scope="module")
def source() -> NearFieldSource:
    return NearFieldSource(MODEL, CPU)


def test_it_agrees_with_the_truth_of_a_drive_it_has_not_seen(
    source: NearFieldSource, frame: SensorFrame, drive: Simulation
) -> None:
    grid = source.update(frame)
    assert grid is not None and grid.frame_id == "base_link" and grid.stamp_ns == frame.stamp_ns
    assert grid.origin == (-7.2, -7.2) and grid.free.shape == (CELLS, CELLS)
    labels = cell_labels(drive.truth(50), drive.rig.own_vehicle)
    known = (labels != UNSEEN) & (grid.unknown() < 0.7)
    truth, call = labels[known] > 0, (grid.occupied > grid.free)[known]
    assert known.sum() > 2000
    assert (truth & call).sum() / (truth | call).sum() > 0.5
    assert (~truth & ~call).sum() / (~truth | ~call).sum() > 0.85
    assert (grid.unknown() >= -1e-6).all() and grid.semantic is not None
    assert set(np.unique(grid.semantic)) <= {0, *range(2, len(SEMANTIC_LAYER))}


def test_nothing_is_said_of_the_vehicle_itself_or_where_nobody_looks(
    source: NearFieldSource, frame: SensorFrame
) -> None:
    middle = CELLS // 2
    grid = source.update(frame)
    assert grid is not None
    assert grid.unknown()[middle - 4 : middle + 4, middle - 10 : middle + 10].min() == 1
    front = {"fisheye_front": frame.cameras["fisheye_front"]}
    half = source.update(replace(frame, cameras=front, ultrasonics={}))
    assert half is not None
    assert (half.unknown()[:, :20] == 1).all() and half.unknown()[middle, -5] < 0.8
    assert source.update(replace(frame, cameras={})) is None


def test_kerbs_can_be_left_out_and_a_failing_engine_is_counted(
    source: NearFieldSource, frame: SensorFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = NearFieldSource(replace(MODEL, kerbs=False), CPU).update(frame)
    assert smooth is not None and smooth.semantic is not None
    assert SEMANTIC_LAYER.index("kerb") not in smooth.semantic

    def fail(arrays: object) -> None:
        raise EngineError("broken")

    monkeypatch.setattr(source._engine, "run", fail)
    assert source.update(frame) is None and source.counts == {"engine_failed": 1}


def test_its_answer_is_evidence_in_the_pipelines_grid(frame: SensorFrame) -> None:
    config = PipelineConfig(near_field=MODEL, runtime=CPU)
    perception = build_pipeline(config).process(frame)
    without = build_pipeline(PipelineConfig()).process(frame).occupancy
    grid = perception.occupancy
    assert grid is not None and without is not None and grid.semantic is not None
    assert grid.unknown().sum() < without.unknown().sum() - 1000
    assert set(np.unique(grid.semantic)) > {0}
    assert perception.stage_ms["near_field"] > 0
    wrong = PipelineConfig(near_field=NearFieldConfig(model="none_such"), runtime=CPU)
    with pytest.raises(UserError, match="none_such"):
        build_pipeline(wrong)


def test_the_shipped_parameter_file_switches_it_on_and_is_all_known() -> None:
    values = load_yaml(share_path("config", "near_field.yaml"))["/**"]["ros__parameters"]
    assert list(values) == ["pipeline"]
    config = build(PipelineConfig, values["pipeline"], "near_field.yaml")
    assert config == replace(PipelineConfig(), near_field=MODEL)
