"""Images of frames: positions of drawn objects, and frames with any subset of sensors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.synthetic import SyntheticDataset
from multimodal_perception.frame import Boxes3D, SensorFrame, ThermalImage, UltrasonicReading
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline_builder import build_pipeline
from multimodal_perception.visualization.camera_view import draw_camera, draw_thermal
from multimodal_perception.visualization.palette import (
    ECHO,
    OCCUPIED,
    ULTRASONIC_CONE,
    class_colour,
)
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.top_view import draw_occupancy, draw_sweep


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticDataset(frames=1, rings=32, columns=600)[0]


def box_at(x: float, y: float) -> Boxes3D:
    boxes = np.array([[x, y, 0.8, 4.0, 1.8, 1.6, 0.0]], np.float32)
    return Boxes3D(0, "base_link", boxes, np.ones(1, np.float32), np.array([1], np.int64))


def test_forward_is_up_and_left_is_left(frame: SensorFrame) -> None:
    picture = draw_sweep(SensorFrame(0), box_at(20.0, 10.0), 40.0, 800)
    rows, columns = np.nonzero((picture == class_colour("car")).all(axis=2))
    assert rows.mean() == pytest.approx(400 - 200, abs=8)
    assert columns.mean() == pytest.approx(400 - 100, abs=8)


def test_velocity_line_ends_at_the_position_in_one_second() -> None:
    def columns(vy: float) -> np.ndarray:
        velocity = np.array([[0.0, vy]], np.float32)
        boxes = replace(box_at(20.0, 10.0), velocities=velocity)
        picture = draw_sweep(SensorFrame(0), boxes, 40.0, 800)
        row = (picture[200] == class_colour("car")).all(axis=1)  # x = 20
        return np.flatnonzero(row)

    assert columns(-15.0).max() == pytest.approx(400 + 50, abs=3)
    for speed in (0.1, np.nan):
        assert columns(speed).max() < 400 - 80


def test_occupied_cell_is_drawn_at_its_position() -> None:
    free = np.zeros((400, 400), np.float32)
    occupied = np.zeros_like(free)
    occupied[250, 300] = 1.0  # x = 20, y = 10 at 0.2 m from -40
    grid = OccupancyGrid(0, "base_link", 0.2, (-40.0, -40.0), free, occupied)
    picture = draw_occupancy(grid, Boxes3D.empty(0, "base_link"), 40.0, 800)
    rows, columns = np.nonzero((picture == OCCUPIED).all(axis=2))
    assert set(rows) <= set(range(196, 201)) and set(columns) <= set(range(296, 301))
    assert len(rows) == 4


def test_box_is_drawn_at_its_projection(frame: SensorFrame) -> None:
    bare = replace(frame, labels=None)
    before = draw_camera(bare, "camera", Boxes3D.empty(0, "base_link"))
    assert np.array_equal(before, frame.cameras["camera"].pixels)
    after = draw_camera(bare, "camera", box_at(15.0, 0.0))
    changed = np.nonzero((before != after).any(axis=2))
    assert changed[1].mean() == pytest.approx(frame.intrinsics["camera"].width / 2, abs=15)
    behind = draw_camera(bare, "camera", box_at(-15.0, 0.0))
    assert np.array_equal(before, behind)


def test_ultrasonic_cone_ends_at_its_echo() -> None:
    """An echo 10 m ahead lies 100 px above the image centre."""

    def close_to(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
        """Mask of the pixels near a colour; anti-aliased lines differ slightly from it."""
        return np.abs(picture.astype(int) - colour).max(axis=2) < 30

    for range_m, colour, height in (
        (10.0, ECHO, 100),
        (np.inf, ULTRASONIC_CONE, 200),
        (-np.inf, ECHO, 50),
    ):
        reading = UltrasonicReading("u", 0, "u", range_m, 5.0, 20.0, 0.5)
        frame = SensorFrame(0, ultrasonics={"u": reading}, base_from_sensor={"u": np.eye(4)})
        picture = draw_sweep(frame, Boxes3D.empty(0, "base_link"), 40.0, 800)
        rows, columns = np.nonzero(close_to(picture, colour))
        assert rows.min() == pytest.approx(400 - height, abs=3)
        assert columns.mean() == pytest.approx(400, abs=3)
        assert close_to(picture, ECHO).any() == (range_m != np.inf)


def test_warm_pixels_are_bright_and_occluded_labels_are_not_drawn(frame: SensorFrame) -> None:
    counts = np.full((400, 960), 29000, np.uint16)
    counts[:, 480:] = 30500
    image = ThermalImage("camera", frame.stamp_ns, "camera_optical", counts, (0.01, 0.0))
    hot = replace(frame, cameras={}, thermals={"camera": image}, labels=None)
    bare = draw_thermal(hot, "camera", Boxes3D.empty(0, "base_link"))
    assert bare[:, :480].mean() < 20 and bare[:, 480:].mean() > 150
    blank = replace(hot, thermals={"camera": replace(image, pixels=counts[:, :1] + 0 * counts)})
    assert np.ptp(draw_thermal(blank, "camera", Boxes3D.empty(0, "base_link")), (0, 1)).max() == 0
    label = box_at(15.0, 0.0)
    for points, drawn in ((None, True), (np.array([3]), True), (np.array([0]), False)):
        labelled = replace(hot, labels=replace(label, num_points=points))
        picture = draw_thermal(labelled, "camera", Boxes3D.empty(0, "base_link"))
        assert np.array_equal(picture, bare) != drawn


@pytest.mark.parametrize("drop", [{"cameras": {}}, {"lidars": {}}, {"labels": None}])
def test_any_subset_of_sensors_can_be_drawn(frame: SensorFrame, drop: dict[str, object]) -> None:
    part = replace(frame, **drop)  # type: ignore[arg-type]
    perception = build_pipeline().process(part)
    sheet = draw_sheet(part, perception.boxes, perception.occupancy, "title")
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 1640


def test_png_is_written_and_an_unwritable_path_is_an_error(tmp_path: Path) -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[..., 0] = 200
    save_png(tmp_path / "a" / "b.png", image)
    read = cv2.imread(str(tmp_path / "a" / "b.png"))
    assert read is not None and read.shape == (10, 20, 3)
    assert (read[..., 2] == 200).all()  # red stays red
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        save_png(tmp_path / "file" / "b.png", image)
