"""From a configuration to stages: names, defaults, replaced stages and warm-up."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from multimodal_perception import pipeline_builder
from multimodal_perception.configuration import ConfigurationError, UserError, build
from multimodal_perception.frame import Boxes3D, SensorFrame
from multimodal_perception.pipeline_builder import (
    DETECTORS,
    PipelineConfig,
    build_pipeline,
    open_detector,
    select_image_detector,
)
from multimodal_perception.rig import Rig, parse_rig
from test.fake_stages import FakeDetector, FakeMapper


def test_occupancy_can_be_disabled() -> None:
    config = build(PipelineConfig, {"occupancy": "none"}, "test")
    assert build_pipeline(config).process(SensorFrame(0)).occupancy is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"geometric": {"min_scor": 0.5}}, r"geometric\.min_scor: unknown key"),
        ({"detector": "magic"}, r"detector: 'magic' is not known; allowed: auto, geometric"),
        ({"segmenter": "rgbx"}, r"segmenter: 'rgbx' is not known; allowed: none, rgb_thermal"),
        ({"occupancy": "off"}, r"occupancy: 'off' is not known; allowed: evidential, raycast"),
        ({"image_detector": ":C"}, r"multimodal_perception.image_detectors\): none"),
    ],
)
def test_unknown_keys_and_stages_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build(PipelineConfig, values, "test")


def test_warm_up_leaves_no_evidence_and_no_tracks() -> None:
    pipeline = build_pipeline(PipelineConfig(detector="geometric"))
    perception = pipeline.process(SensorFrame(0, odom_from_base=np.eye(4)))
    assert perception.occupancy is not None and (perception.occupancy.unknown() == 1).all()
    assert not pipeline.counts and len(pipeline.tracker) == 0  # type: ignore[arg-type]


def test_stages_can_be_replaced_by_objects() -> None:
    detector, mapper = FakeDetector(), FakeMapper()
    pipeline = build_pipeline(detector=detector, occupancy=mapper)
    pipeline.process(SensorFrame(0))
    assert len(detector.frames) == len(mapper.frames) == 1  # no warm-up with the user's stages
    with pytest.raises(TypeError, match="mapper: not a stage; allowed: detector"):
        build_pipeline(mapper=mapper)


def test_auto_selects_the_networks_only_if_a_gpu_runs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class FakeFusionDetector:
        name = "fusion"

        def __init__(self, *_: object) -> None:
            self.proposal_network = SimpleNamespace(device=device)

        def detect(self, *_: object) -> Boxes3D:
            return Boxes3D.empty(0, "base_link")

    monkeypatch.setattr(pipeline_builder, "BevFusionDetector", FakeFusionDetector)
    for gpu, device_, expected in (
        (False, "cuda:0", "geometric"),
        (True, "cuda:0", "fusion"),
        (True, "cpu", "geometric"),  # no engine can use the GPU
    ):
        device = device_
        monkeypatch.setattr(pipeline_builder, "gpu_present", lambda _, gpu=gpu: gpu)
        assert build_pipeline().detector.name == expected
    assert build_pipeline(PipelineConfig(detector="geometric")).detector.name == "geometric"
    assert build_pipeline(PipelineConfig(detector="fusion")).detector.name == "fusion"


def test_open_detector_accepts_the_names_of_the_configuration() -> None:
    assert PipelineConfig().detector in DETECTORS
    assert open_detector("geometric").name == "geometric"


@pytest.mark.parametrize("name", ["", "magic", "Geometric"])
def test_open_detector_refuses_an_unknown_name_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"allowed: auto, geometric, fusion.*shipped.*model"):
        open_detector(name)


def test_image_detector_is_chosen_by_the_sensors_of_the_rig() -> None:
    def rig(*modalities: str) -> Rig:
        sensors = {m: {"modality": m, "topic": f"/{m}", "frame_id": m} for m in modalities}
        for name in sensors.keys() - {"lidar"}:
            sensors[name]["camera_info_topic"] = f"/{name}/camera_info"
        return parse_rig({"name": "test", "sensors": sensors}, "test rig")

    config = PipelineConfig()
    assert config.image_detector == "auto"
    assert select_image_detector(config, None) == "none"
    assert select_image_detector(config, rig("lidar", "camera")) == "none"
    assert select_image_detector(config, rig("camera")) == "rgb_thermal"
    assert select_image_detector(config, rig("thermal")) == "rgb_thermal"
    imported = PipelineConfig(image_detector="imported")
    assert select_image_detector(imported, rig("lidar")) == "imported"
    with pytest.raises(UserError, match=r"imported_detector\.model: missing"):
        build_pipeline(imported)
    with pytest.raises(UserError, match=r"imported_segmenter\.model: missing"):
        build_pipeline(PipelineConfig(segmenter="imported"))
