from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from multimodal_perception.cli.json_values import decode, encode
from multimodal_perception.evaluation.detections import DetectionScore
from multimodal_perception.evaluation.near_objects import NearObjectScore
from multimodal_perception.evaluation.nuscenes_metrics import NuScenesProtocol, ScoredFrame
from multimodal_perception.evaluation.recorded_drives import DriveResult, WorstFrame
from multimodal_perception.evaluation.tracking import TrackingScore
from multimodal_perception.frame import CLASS_NAMES, Boxes3D, Modality
from multimodal_perception.pipeline_builder import PipelineConfig


def through_json(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value))))


keys = st.one_of(st.text(), st.integers(), st.tuples(st.integers(), st.floats(allow_nan=False)))
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(keys, inner),
    ),
    max_leaves=10,
)


@given(values)
def test_values_are_the_same_after_json(value: Any) -> None:
    restored = through_json(value)
    assert restored == value and type(restored) is type(value)


@given(
    arrays.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
    )
)
def test_arrays_are_the_same_after_json(array: Any) -> None:
    restored = through_json(array)
    assert restored.dtype == array.dtype
    np.testing.assert_array_equal(restored, array)


def test_results_of_drives_are_the_same_after_json() -> None:
    boxes = Boxes3D(
        5,
        "base_link",
        np.arange(14, dtype=np.float32).reshape(2, 7) + 1,
        np.array([0.5, np.float32(1 / 3)], np.float32),
        np.array([1, CLASS_NAMES.index("pedestrian")], np.int64),
        velocities=np.array([[np.nan, 0], [1, 2]], np.float32),
    )
    result = DriveResult(
        "bag x",
        "fusion",
        DetectionScore(labels=3, by_class={"car": [1, 2]}),
        TrackingScore(id_switches=Counter(car=2), objects={4, 9}),
        NearObjectScore(),
        2,
        [ScoredFrame(boxes, boxes, tags={"condition": "night"})],
        times={"total": [1.5, float("inf")]},
        worst=[WorstFrame(3, "frame 1", b"\xff\xd8")],
    )
    result.tracking._predicted_id[4] = 7
    restored = through_json(result)
    assert isinstance(restored, DriveResult)
    for name in ("name", "score", "tracking", "near", "times", "worst", "frames"):
        assert getattr(restored, name) == getattr(result, name), name
    frame = restored.scored[0]
    np.testing.assert_array_equal(frame.predicted.boxes, boxes.boxes)
    np.testing.assert_array_equal(frame.predicted.velocities, boxes.velocities)
    assert frame.tags == {"condition": "night"} and frame.truth.class_names == CLASS_NAMES


def test_configurations_and_enumerations_are_the_same_after_json() -> None:
    assert through_json(PipelineConfig()) == PipelineConfig()
    assert through_json(NuScenesProtocol()) == NuScenesProtocol()
    assert through_json({"m": Modality.LIDAR, "p": Path("a/b"), "s": {3, 1}}) == {
        "m": Modality.LIDAR,
        "p": Path("a/b"),
        "s": {1, 3},
    }


@pytest.mark.parametrize(
    "content",
    [
        {"__kind__": "dataclass", "type": "os:system", "value": {}},
        {"__kind__": "dataclass", "type": "multimodal_perception.files:os", "value": {}},
        {"__kind__": "dataclass", "type": "multimodal_perception.frame:SensorFrame", "value": 3},
        {"__kind__": "enum", "type": "multimodal_perception.frame:Boxes3D", "value": 1},
        {"__kind__": "dataclass", "type": "multimodal_perception.frame:Boxes3D.empty", "value": {}},
        {"__kind__": "array", "dtype": "O", "shape": [1], "value": "AAAAAAAAAAA="},
        {"__kind__": "array", "dtype": "<f8", "shape": [3], "value": "AAAAAAAAAAA="},
        {"__kind__": "bytes", "value": "not base64!"},
        {"__kind__": "call", "value": "os.system"},
        {"other": 1},
    ],
)
def test_other_content_is_refused(content: Any) -> None:
    with pytest.raises((LookupError, ValueError, TypeError, AttributeError)):
        decode(content)


def test_other_types_are_refused() -> None:
    for value in (object(), np.array([None], object), lambda: 0):
        with pytest.raises(TypeError):
            encode(value)
