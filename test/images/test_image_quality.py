"""Trust in images: what they must show, and what ruins them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.images.image_quality import TrustConfig, TrustMonitor
from multimodal_perception.perception import ImageTrust, Level, SegmentationMask, SensorHealth
from multimodal_perception.pipeline import Pipeline
from multimodal_perception.resources import share_path
from multimodal_perception.rig import load_rig
from multimodal_perception.simulation.simulation import Simulation

TENTH = 100_000_000


def street(seed: int = 0, shape: tuple[int, int] = (360, 640)) -> np.ndarray:
    """Grey rectangles with a sensor's noise, (H, W, 3) uint8."""
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


def trust(frame: SensorFrame, monitor: TrustMonitor | None = None) -> ImageTrust:
    (told,) = (monitor or TrustMonitor()).judge(frame).values()
    assert 0.0 <= told.value <= 1.0 and told.value == pytest.approx(
        np.prod(list(told.cues.values()))
    )
    return told


def test_a_sound_image_is_trusted() -> None:
    assert trust(camera(street())).value > 0.95
    heat = (29000 + 4 * street()[..., 0].astype(np.uint16)).astype(np.uint16)
    assert trust(thermal(heat)).value > 0.9
    assert trust(thermal(street()[..., 0])).value > 0.95


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_value_is_not(value: int) -> None:
    told = trust(camera(np.full((360, 640, 3), value, np.uint8)))
    assert told.value == 0.0 and told.cues["exposure"] == 0.0
    assert trust(thermal(np.full((256, 320), value, np.uint8))).value == 0.0
    assert trust(thermal(np.full((256, 320), 257 * value, np.uint16))).value == 0.0


def test_a_mostly_saturated_image_is_hardly_trusted_a_bright_sky_is() -> None:
    image = street()
    image[:100] = 255
    assert trust(camera(image)).value > 0.9
    image[:290] = 255
    assert trust(camera(image)).value < 0.1


@pytest.mark.parametrize("sigma", [2.5, 4.0, 8.0])
def test_blur_is_told(sigma: float) -> None:
    blurred = cv2.GaussianBlur(street(), (0, 0), sigma)
    assert trust(camera(blurred)).cues["sharpness"] < 0.5
    noisy = blurred + np.random.default_rng(1).normal(0, 3, blurred.shape)
    told = trust(camera(np.clip(noisy, 0, 255).astype(np.uint8)))
    assert told.cues["sharpness"] < 0.6 or sigma < 4.0


def test_darkness_of_an_image_that_still_shows_something_is_no_fault() -> None:
    assert trust(camera(street() // 6)).value > 0.9


def test_a_frozen_image_is_worth_nothing_until_it_moves_again() -> None:
    monitor, image = TrustMonitor(), street()
    values = [trust(camera(image, k * TENTH), monitor).value for k in range(8)]
    assert min(values[:4]) > 0.9 and max(values[4:]) == 0.0
    assert trust(camera(street(1), 8 * TENTH), monitor).value > 0.9


def test_noise_alone_shows_that_a_sensor_lives() -> None:
    monitor, image, rng = TrustMonitor(), street(), np.random.default_rng(0)
    for k in range(8):
        noisy = np.clip(image + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)
        assert trust(camera(noisy, k * TENTH), monitor).value > 0.9


def test_stamps_that_jump_back_and_sizes_that_change_begin_anew() -> None:
    monitor, image = TrustMonitor(), street()
    for k in range(8):
        told = trust(camera(image, k * TENTH), monitor)
    assert told.value == 0.0
    assert trust(camera(image, 0), monitor).value > 0.9
    assert trust(camera(street(2, (200, 300)), TENTH), monitor).value > 0.9


@pytest.mark.parametrize("shape", [(1, 1), (2, 500), (500, 2), (7, 7)])
def test_images_of_odd_sizes_are_judged_all_the_same(shape: tuple[int, int]) -> None:
    trust(camera(np.zeros((*shape, 3), np.uint8)))
    trust(thermal(np.full(shape, 40000, np.uint16)))


def test_what_other_sensors_do_not_see_is_trusted_less() -> None:
    monitor = TrustMonitor()
    monitor.agreement = {"camera": 0.3, "another": 0.0}
    told = trust(camera(street()), monitor)
    assert told.cues["agreement"] == 0.3 and told.value == pytest.approx(0.3, abs=0.03)


def mosaic() -> np.ndarray:
    """A street with a print of strong colours on it."""
    image, rng = street(), np.random.default_rng(0)
    tiles = rng.choice([0, 255], (10, 14, 3)).astype(np.uint8)
    image[150:250, 200:340] = cv2.resize(tiles, (140, 100), interpolation=cv2.INTER_NEAREST)
    return image


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_a_loud_print_lowers_trust_but_never_blinds(encoding: str) -> None:
    image = CameraImage("camera", 0, "", mosaic(), encoding)  # type: ignore[arg-type]
    told = trust(SensorFrame(0, cameras={"camera": image}))
    assert told.cues["loudness"] < 0.7 and told.value >= 0.4


def test_a_place_that_is_always_colourful_becomes_usual() -> None:
    monitor, rng, image = TrustMonitor(), np.random.default_rng(0), mosaic()
    for k in range(0, 1200, 50):
        noisy = np.clip(image + rng.integers(-1, 2, image.shape), 0, 255).astype(np.uint8)
        told = trust(camera(noisy, k * TENTH), monitor)
    assert told.cues["loudness"] > 0.9


def test_an_attack_with_prints_is_told_in_the_simulator() -> None:
    rig = load_rig(share_path("config", "rigs", "simulation.yaml"))
    cameras = {n: s for n, s in rig.sensors.items() if n == "camera_front"}
    rig = type(rig)(rig.name, cameras)
    values = {}
    for condition in ((), ("patch=1.5",)):
        frame = Simulation("urban_street", rig, 710, 2, condition)[1]
        values[condition] = trust(frame).cues["loudness"]
    assert values[()] == 1.0 and values["patch=1.5",] < 0.7


def test_images_below_the_threshold_are_missing_to_every_stage() -> None:
    frame = camera(np.zeros((360, 640, 3), np.uint8))
    frame = type(frame)(
        0,
        cameras=frame.cameras,
        thermals={"thermal": ThermalImage("thermal", 0, "", street()[..., 0])},
        expected=frozenset({"camera", "thermal"}),
    )
    seen: list[SensorFrame] = []

    class Segmenter:
        def segment(self, frame: SensorFrame) -> dict[str, SegmentationMask]:
            seen.append(frame)
            return {}

    class Mapper:
        health: dict[str, SensorHealth]

        def update(self, frame: SensorFrame, cloud: object, **given: object) -> None:
            seen.append(frame)
            self.health = given["health"]  # type: ignore[assignment]

    class Detector:
        name = "none"

        def detect(self, frame: SensorFrame, cloud: object) -> None:
            seen.append(frame)

    mapper = Mapper()
    pipeline = Pipeline(Detector(), mapper, segmenter=Segmenter())  # type: ignore[arg-type]
    perception = pipeline.process(frame)
    assert len(seen) == 3
    assert all(f.present == {"thermal"} and f.missing == {"camera"} for f in seen)
    assert perception.missing == {"camera"} and perception.trust["camera"].value == 0.0
    assert mapper.health["camera"].trust == 0.0 and mapper.health["thermal"].trust > 0.9

    given = {"thermal": SensorHealth("thermal", Level.WARN, "slow")}
    pipeline.process(frame, given)
    assert mapper.health["thermal"].level is Level.WARN
    kept = Pipeline(
        Detector(),  # type: ignore[arg-type]
        segmenter=Segmenter(),
        trust=TrustConfig(absent_below=0.0),
    ).process(frame)
    assert kept.missing == frozenset()
    off = Pipeline(
        Detector(),  # type: ignore[arg-type]
        segmenter=Segmenter(),
        trust=TrustConfig(enabled=False),
    ).process(frame)
    assert off.trust == {} and off.missing == frozenset()


def test_real_images_by_day_and_night_are_trusted_and_not_when_blurred(shared_data: Path) -> None:
    paths = sorted((shared_data / "roadscene" / "visible").iterdir())[::16]
    paths += sorted((shared_data / "kitti" / "training" / "image_2").iterdir())
    for path in paths:
        pixels = cv2.imread(str(path))
        assert trust(camera(pixels[..., ::-1].copy())).value > 0.95, path
        blurred = cv2.GaussianBlur(pixels, (0, 0), 0.008 * pixels.shape[1])
        assert trust(camera(blurred)).value < 0.25, path
    for path in sorted((shared_data / "roadscene" / "infrared").iterdir())[::16]:
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert trust(thermal(pixels)).value > 0.7, path
