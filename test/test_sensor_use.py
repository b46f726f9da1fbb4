"""Sensors that no stage uses, and images that exceed the inputs of a network, are stated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multimodal_perception.detection.bev_fusion.fusion_config import FusionConfig
from multimodal_perception.frame import Modality
from multimodal_perception.perception import Level
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.rig import Rig, load_rig, resolve_rig_path
from multimodal_perception.runtime.card import load_card
from multimodal_perception.sensor_use import (
    SensorUse,
    combine,
    limited,
    of_view,
    of_views,
    training_rig_notes,
)
from multimodal_perception.stages import SensorUser
from test.fake_stages import FakeDetector


def rig(name: str) -> Rig:
    return load_rig(resolve_rig_path(name))


def pipeline(**config: Any) -> Pipeline:
    return build_pipeline(PipelineConfig(**config))


def test_cameras_are_unused_by_the_geometric_detector() -> None:
    car = rig("car")
    use = pipeline(detector="geometric").sensor_use(car)
    images = [*car.sensors_of(Modality.CAMERA), *car.sensors_of(Modality.THERMAL)]
    assert use.unused_sensors == tuple(n for n in car.sensors if n in images)
    assert use.unused_images == {}
    assert use.status.level is Level.WARN
    assert "camera 'camera_front' of the rig is used by no stage of the pipeline" in use.lines


def test_ultrasonic_sensors_are_unused_by_the_raycast_grid() -> None:
    amr = rig("amr")
    use = pipeline(detector="geometric", occupancy="raycast").sensor_use(amr)
    assert set(amr.sensors_of(Modality.ULTRASONIC)) <= set(use.unused_sensors)
    evidential = pipeline(detector="geometric").sensor_use(amr)
    assert not set(amr.sensors_of(Modality.ULTRASONIC)) & set(evidential.unused_sensors)


def test_images_beyond_the_limits_of_the_fusion_detector_are_stated() -> None:
    car = rig("car")
    cameras = list(car.sensors_of(Modality.CAMERA))
    limits = FusionConfig(max_cameras=2)
    use = pipeline(detector="fusion", fusion=limits).sensor_use(car)
    assert use.unused_images == {"detector": tuple(cameras[2:])}
    assert use.details["unused_images"] == f"detector: {' '.join(cameras[2:])}"
    line = (
        f"detector: {cameras[2]!r} is not used: 2 cameras; increase pipeline.fusion.max_cameras to "
        "use all of them"
    )
    assert use.lines.count(line) == 1
    assert line in use.status.values.values()


def test_thermal_cameras_beyond_the_limit_are_stated() -> None:
    simulation = rig("simulation")
    thermal = simulation.sensors["thermal_front"]
    more = {**simulation.sensors, "second": replace(thermal, name="second", topic="/second")}
    limits = FusionConfig(max_thermal_cameras=1)
    use = pipeline(detector="fusion", fusion=limits).sensor_use(replace(simulation, sensors=more))
    assert use.unused_images == {"detector": ("second",)}
    assert use.unused_sensors == ("second",)


def test_all_six_cameras_of_the_car_are_used() -> None:
    use = pipeline(detector="fusion").sensor_use(rig("car"))
    assert use.unused_images == {} and use.unused_sensors == ()


def test_rig_whose_sensors_are_all_used_is_ok() -> None:
    use = pipeline(detector="fusion").sensor_use(rig("simulation"))
    assert (use.unused_sensors, use.details, use.lines) == ((), {}, ())
    assert (use.status.level, use.status.message) == (Level.OK, "all sensors are used")


def test_stages_that_do_not_state_their_sensors_may_use_all() -> None:
    detector = FakeDetector()
    assert not isinstance(detector, SensorUser)
    stages = build_pipeline(PipelineConfig(), detector=detector)
    assert stages.sensor_use(rig("car")).details == {}


@pytest.mark.parametrize("attribute", ["detector", "occupancy", "segmenter", "image_detector"])
def test_builtin_stages_state_their_sensors(attribute: str) -> None:
    stages = pipeline(detector="fusion", segmenter="rgb_thermal", image_detector="rgb_thermal")
    assert isinstance(getattr(stages, attribute), SensorUser)


def test_stages_of_one_view_state_the_other_cameras() -> None:
    car = rig("car")
    use = of_view(car, (), uses_thermal=False)
    assert use.used == {"camera_front"} and len(use.surplus) == 5
    assert "one of 6 cameras is processed in each frame" in of_view(car, ()).notes[0]
    chosen = of_view(car, ("camera_rear", "gone"), uses_thermal=False)
    assert chosen.used == {"camera_rear"}
    assert chosen.notes == ("cameras: gone not in the rig",)


def test_image_stages_use_all_cameras_or_the_configured_ones() -> None:
    car = rig("car")
    use = of_views(car, ())
    assert len(use.used) >= 6 and not use.surplus and not use.notes
    limited_use = of_views(car, (), 2)
    assert limited_use.used == use.used
    assert f"at most 2 of {len(use.used)} images are processed" in limited_use.notes[0]
    assert of_views(car, ("camera_rear",)).used >= {"camera_rear"}
    assert not of_views(car, (), uses_thermal=False).used & set(car.sensors_of(Modality.THERMAL))
    stages = pipeline(segmenter="rgb_thermal", image_detector="rgb_thermal")
    assert not stages.sensor_use(car).unused_images


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 9])
def test_limited_sensors_are_used_or_surplus(limit: int) -> None:
    names = ["a", "b", "c", "d"]
    use = limited(names, limit, "cameras")
    assert use.used | use.surplus.keys() == set(names)
    assert len(use.used) == min(limit, 4) and not use.used & use.surplus.keys()


def test_sensor_used_by_any_stage_is_used() -> None:
    simulation = rig("simulation")
    names = list(simulation.sensors)
    use = combine(
        simulation,
        {
            "detector": SensorUse(frozenset(names[:1]), {names[1]: "too many"}),
            "segmentation": SensorUse(frozenset(names[1:])),
        },
    )
    assert use.unused_sensors == ()
    assert use.unused_images == {"detector": (names[1],)}


def test_model_of_another_rig_is_stated() -> None:
    card = load_card("near_field")
    modalities = (Modality.CAMERA, Modality.ULTRASONIC)
    assert list(training_rig_notes(card, rig("near_field"), modalities)) == []
    (note,) = training_rig_notes(card, rig("car"), modalities)
    assert "near_field was trained with the rig near_field, which has 4 camera (here 6)" in note
