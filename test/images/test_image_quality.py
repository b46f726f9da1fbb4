"""Quality scores of good and of degraded images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.frame import Boxes3D, CameraImage, SensorFrame, ThermalImage
from multimodal_perception.images.image_quality import ImageQualityConfig, ImageQualityMonitor
from multimodal_perception.perception import ImageQuality, Level, SegmentationMask, SensorHealth
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.pipeline_builder import PipelineConfig, build_pipeline
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig
from multimodal_perception.simulation.simulation import Simulation

TENTH = 100_000_000


def street(seed: int = 0, shape: tuple[int, int] = (360, 640)) -> np.ndarray:
    """An image of grey rectangles with sensor noise, (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 110, np.float32)
    for _ in range(150):
        x, y = (int(v) for v in rng.integers(0, (shape[1], shape[0])))
        w, h = (int(v) for v in rng.integers(3, 60, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), float(rng.uniform(10, 240)), -1)
    image += rng.normal(0, 2, shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, 2)


def camera(pixels: np.ndarray, stamp_ns: int = 0) -> SensorFrame:
    return SensorFrame(stamp_ns, cameras={"camera": CameraImage("camera", stamp_ns, "", pixels)})


def thermal(pixels: np.ndarray, stamp_ns: int = 0) -> SensorFrame:
    image = ThermalImage("thermal", stamp_ns, "", pixels)
    return SensorFrame(stamp_ns, thermals={"thermal": image})


def assess(
    frame: SensorFrame,
    monitor: ImageQualityMonitor | None = None,
    agreement: dict[str, float] | None = None,
) -> ImageQuality:
    (result,) = (monitor or ImageQualityMonitor()).assess(frame, agreement).values()
    assert 0.0 <= result.value <= 1.0
    assert result.value == pytest.approx(np.prod(list(result.cues.values())))
    return result


def test_good_image_has_a_high_score() -> None:
    assert assess(camera(street())).value > 0.95
    heat = (29000 + 4 * street()[..., 0].astype(np.uint16)).astype(np.uint16)
    assert assess(thermal(heat)).value > 0.9
    assert assess(thermal(street()[..., 0])).value > 0.95


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_image_has_score_zero(value: int) -> None:
    result = assess(camera(np.full((360, 640, 3), value, np.uint8)))
    assert result.value == 0.0 and result.cues["exposure"] == 0.0
    assert assess(thermal(np.full((256, 320), value, np.uint8))).value == 0.0
    assert assess(thermal(np.full((256, 320), 257 * value, np.uint16))).value == 0.0


def test_saturated_image_has_a_low_score_and_bright_sky_does_not() -> None:
    image = street()
    image[:100] = 255
    assert assess(camera(image)).value > 0.9
    image[:290] = 255
    assert assess(camera(image)).value < 0.1


@pytest.mark.parametrize("sigma", [2.5, 4.0, 8.0])
def test_blur_lowers_the_sharpness(sigma: float) -> None:
    blurred = cv2.GaussianBlur(street(), (0, 0), sigma)
    assert assess(camera(blurred)).cues["sharpness"] < 0.5
    noisy = blurred + np.random.default_rng(1).normal(0, 3, blurred.shape)
    result = assess(camera(np.clip(noisy, 0, 255).astype(np.uint8)))
    assert result.cues["sharpness"] < 0.6 or sigma < 4.0


def test_dark_image_with_content_has_a_high_score() -> None:
    assert assess(camera(street() // 6)).value > 0.9


def test_frozen_image_has_score_zero_until_it_changes() -> None:
    monitor, image = ImageQualityMonitor(), street()
    values = [assess(camera(image, k * TENTH), monitor).value for k in range(8)]
    assert min(values[:4]) > 0.9 and max(values[4:]) == 0.0
    assert assess(camera(street(1), 8 * TENTH), monitor).value > 0.9


def test_static_scene_with_noise_is_not_frozen() -> None:
    monitor, image, rng = ImageQualityMonitor(), street(), np.random.default_rng(0)
    for k in range(8):
        noisy = np.clip(image + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)
        assert assess(camera(noisy, k * TENTH), monitor).value > 0.9


def test_stamps_that_jump_back_and_new_sizes_reset_the_frozen_check() -> None:
    monitor, image = ImageQualityMonitor(), street()
    for k in range(8):
        result = assess(camera(image, k * TENTH), monitor)
    assert result.value == 0.0
    assert assess(camera(image, 0), monitor).value > 0.9
    assert assess(camera(street(2, (200, 300)), TENTH), monitor).value > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (500, 2), (7, 7)])
def test_images_of_unusual_sizes_are_assessed(shape: tuple[int, int]) -> None:
    assess(camera(np.zeros((*shape, 3), np.uint8)))
    assess(thermal(np.full(shape, 40000, np.uint16)))


def test_disagreement_with_other_sensors_lowers_the_score() -> None:
    result = assess(camera(street()), agreement={"camera": 0.3, "another": 0.0})
    assert result.cues["agreement"] == 0.3 and result.value == pytest.approx(0.3, abs=0.03)


def mosaic() -> np.ndarray:
    """A street with a printed patch of strong colours."""
    image, rng = street(), np.random.default_rng(0)
    tiles = rng.choice([0, 255], (10, 14, 3)).astype(np.uint8)
    image[150:250, 200:340] = cv2.resize(tiles, (140, 100), interpolation=cv2.INTER_NEAREST)
    return image


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_adversarial_texture_lowers_the_score_down_to_its_limit(encoding: str) -> None:
    image = CameraImage("camera", 0, "", mosaic(), encoding)  # type: ignore[arg-type]
    result = assess(SensorFrame(0, cameras={"camera": image}))
    assert result.cues["texture"] < 0.7 and result.value >= 0.4


def test_persistent_colourful_texture_becomes_usual() -> None:
    monitor, rng, image = ImageQualityMonitor(), np.random.default_rng(0), mosaic()
    for k in range(0, 1200, 50):
        noisy = np.clip(image + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)
        result = assess(camera(noisy, k * TENTH), monitor)
    assert result.cues["texture"] > 0.9


def test_simulated_adversarial_patch_is_detected() -> None:
    rig = load_rig(share_path("config", "rigs", "simulation.yaml"))
    cameras = {n: s for n, s in rig.sensors.items() if n == "camera_front"}
    rig = type(rig)(rig.name, cameras)
    values = {}
    for condition in ((), ("adversarial_patch=1.5",)):
        frame = Simulation("urban_street", rig, 710, 2, condition)[1]
        values[condition] = assess(frame).cues["texture"]
    assert values[()] == 1.0 and values["adversarial_patch=1.5",] < 0.7


def test_images_below_min_quality_are_missing_for_every_stage() -> None:
    frame = camera(np.zeros((360, 640, 3), np.uint8))
    frame = type(frame)(
        0,
        cameras=frame.cameras,
        thermals={"thermal": ThermalImage("thermal", 0, "", street()[..., 0])},
        expected=frozenset({"camera", "thermal"}),
    )
    frames: list[SensorFrame] = []

    class Segmenter:
        counts: Mapping[str, int] = {}

        def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
            frames.append(frame)
            return {}

    class Mapper:
        counts: Mapping[str, int] = {}
        uses_masks = True
        health: dict[str, SensorHealth]

        def update(self, frame: SensorFrame, cloud: object, **given: object) -> None:
            frames.append(frame)
            self.health = given["health"]  # type: ignore[assignment]

        def odom_grid(self, stamp_ns: int) -> None:
            return None

    class Detector:
        name = "none"
        counts: Mapping[str, int] = {}
        uses_proposals = False
        uses_masks = False

        def prepare(self, frame: SensorFrame) -> None: ...

        def detect(self, frame: SensorFrame, *_: object) -> Boxes3D:
            frames.append(frame)
            return Boxes3D.empty(frame.stamp_ns, frame.base_frame)

    mapper = Mapper()

    def pipeline(**settings: float) -> Pipeline:
        return build_pipeline(
            PipelineConfig(image_quality=ImageQualityConfig(**settings)),  # type: ignore[arg-type]
            detector=Detector(),
            segmenter=Segmenter(),
            occupancy=mapper,
        )

    default = pipeline()
    perception = default.process(frame)
    assert len(frames) == 3
    assert all(f.present == {"thermal"} and f.missing == {"camera"} for f in frames)
    assert perception.missing == {"camera"} and perception.image_quality["camera"].value == 0.0
    assert mapper.health["camera"].image_quality == 0.0
    assert mapper.health["thermal"].image_quality > 0.9

    given = {"thermal": SensorHealth("thermal", Level.WARN, "slow")}
    default.process(frame, given)
    assert mapper.health["thermal"].level is Level.WARN
    assert pipeline(min_quality=0.0).process(frame).missing == frozenset()
    disabled = pipeline(enabled=False).process(frame)
    assert disabled.image_quality == {} and disabled.missing == frozenset()


def test_real_images_have_high_scores_and_blurred_ones_low(shared_data: Path) -> None:
    paths = sorted((shared_data / "roadscene" / "visible").iterdir())[::16]
    paths += sorted((shared_data / "kitti" / "training" / "image_2").iterdir())
    for path in paths:
        pixels = cv2.imread(str(path))
        assert assess(camera(pixels[..., ::-1].copy())).value > 0.95, path
        blurred = cv2.GaussianBlur(pixels, (0, 0), 0.008 * pixels.shape[1])
        assert assess(camera(blurred)).value < 0.25, path
    for path in sorted((shared_data / "roadscene" / "infrared").iterdir())[::16]:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert assess(thermal(pixels)).value > 0.7, path
