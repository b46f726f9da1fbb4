"""Pictures: what is drawn lies where it must, and any frame can be drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.synthetic import SyntheticStreet
from multimodal_perception.frame import Boxes3D, SensorFrame, ThermalImage, UltrasonicReading
from multimodal_perception.perception import OccupancyGrid
from multimodal_perception.pipeline import build_pipeline
from multimodal_perception.visualization.camera_view import draw_camera, draw_thermal
from multimodal_perception.visualization.palette import CONE, ECHO, OCCUPIED, class_colour
from multimodal_perception.visualization.sheet import draw_sheet, save_png
from multimodal_perception.visualization.top_view import draw_occupancy, draw_sweep


@pytest.fixture(scope="module")
def frame() -> SensorFrame:
    return SyntheticStreet(frames=1, rings=32, columns=600)[0]


def box_at(x: float, y: float) -> Boxes3D:
    boxes = np.array([[x, y, 0.8, 4.0, 1.8, 1.6, 0.0]], np.float32)
    return Boxes3D(0, "base_link", boxes, np.ones(1, np.float32), np.array([1], np.int64))


def test_forward_is_up_and_left_is_left(frame: SensorFrame) -> None:
    picture = draw_sweep(SensorFrame(0), box_at(20.0, 10.0), 40.0, 800)
    rows, columns = np.nonzero((picture == class_colour("car")).all(axis=2))
    assert rows.mean() == pytest.approx(400 - 200, abs=8)
    assert columns.mean() == pytest.approx(400 - 100, abs=8)


def test_what_moves_has_a_line_to_where_it_is_in_a_second() -> None:
    def columns(vy: float) -> np.ndarray:
        told = np.array([[0.0, vy]], np.float32)
        boxes = replace(box_at(20.0, 10.0), velocities=told)
        picture = draw_sweep(SensorFrame(0), boxes, 40.0, 800)
        row = (picture[200] == class_colour("car")).all(axis=1)  # x = 20
        return np.flatnonzero(row)

    assert columns(-15.0).max() == pytest.approx(400 + 50, abs=3)
    for still in (0.1, np.nan):
        assert columns(still).max() < 400 - 80


def test_an_occupied_cell_is_drawn_at_its_place() -> None:
    free = np.zeros((400, 400), np.float32)
    occupied = np.zeros_like(free)
    occupied[250, 300] = 1.0  # x = 20, y = 10 at 0.2 m from -40
    grid = OccupancyGrid(0, "base_link", 0.2, (-40.0, -40.0), free, occupied)
    picture = draw_occupancy(grid, Boxes3D.empty(0, "base_link"), 40.0, 800)
    rows, columns = np.nonzero((picture == OCCUPIED).all(axis=2))
    assert set(rows) <= set(range(196, 201)) and set(columns) <= set(range(296, 301))
    assert len(rows) == 4


def test_a_box_is_drawn_where_the_camera_sees_it(frame: SensorFrame) -> None:
    bare = replace(frame, labels=None)
    before = draw_camera(bare, "camera", Boxes3D.empty(0, "base_link"))
    assert np.array_equal(before, frame.cameras["camera"].pixels)
    after = draw_camera(bare, "camera", box_at(15.0, 0.0))
    changed = np.nonzero((before != after).any(axis=2))
    assert changed[1].mean() == pytest.approx(frame.intrinsics["camera"].width / 2, abs=15)
    behind = draw_camera(bare, "camera", box_at(-15.0, 0.0))
    assert np.array_equal(before, behind)


def test_a_cone_is_drawn_up_to_its_echo() -> None:
    """10 m straight ahead of the origin: a tenth of the plane's side above the middle."""

    def like(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
        """Lines are smooth, so their pixels are only like it."""
        return np.abs(picture.astype(int) - colour).max(axis=2) < 30

    for heard, colour, away in ((10.0, ECHO, 100), (np.inf, CONE, 200), (-np.inf, ECHO, 50)):
        reading = UltrasonicReading("u", 0, "u", heard, 5.0, 20.0, 0.5)
        seen = SensorFrame(0, ultrasonics={"u": reading}, base_from_sensor={"u": np.eye(4)})
        picture = draw_sweep(seen, Boxes3D.empty(0, "base_link"), 40.0, 800)
        rows, columns = np.nonzero(like(picture, colour))
        assert rows.min() == pytest.approx(400 - away, abs=3)
        assert columns.mean() == pytest.approx(400, abs=3)
        assert like(picture, ECHO).any() == (heard != np.inf)


def test_what_is_warm_is_bright_and_hidden_labels_are_left_out(frame: SensorFrame) -> None:
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


def test_a_picture_is_written_and_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[..., 0] = 200
    save_png(tmp_path / "a" / "b.png", image)
    read = cv2.imread(str(tmp_path / "a" / "b.png"))
    assert read is not None and read.shape == (10, 20, 3)
    assert (read[..., 2] == 200).all()  # red stays red
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError):
        save_png(tmp_path / "file" / "b.png", image)
