"""Images in turns, and overlapping tiles of images."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.frame import CameraImage, SensorFrame, ThermalImage
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.images.tiles import Region, crop_frame, is_complete, tile_regions
from multimodal_perception.images.turns import ImageTurns


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 60))
def test_turns_are_fair_and_skipped_images_are_counted(count: int, limit: int, frames: int) -> None:
    names = [f"camera_{k}" for k in range(count)]
    counts: Counter[str] = Counter()
    turns = ImageTurns(limit, counts)
    processed: Counter[str] = Counter()
    waiting = dict.fromkeys(names, 0)
    for _ in range(frames):
        chosen = turns.select(names)
        assert len(chosen) == min(limit, count) and chosen == [n for n in names if n in chosen]
        processed.update(chosen)
        for name in names:
            waiting[name] = 0 if name in chosen else waiting[name] + 1
            assert waiting[name] <= -(-count // limit)  # no image waits longer than one round
    assert max(processed.values()) - min(processed[n] for n in names) <= 1
    assert sum(counts.values()) == frames * count - sum(processed.values())
    assert all(counts[f"{n}.skipped"] == frames - processed[n] for n in names)


def test_cameras_that_come_back_are_processed_first_and_zero_is_no_limit() -> None:
    turns = ImageTurns(1, Counter())
    for _ in range(3):
        turns.select(["a", "b"])
    assert turns.select(["a", "b", "c"]) == ["c"]
    assert ImageTurns(0, Counter()).select(["a", "b", "c"]) == ["a", "b", "c"]
    assert turns.select([]) == []


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 8), st.integers(1, 4),
    st.floats(0.0, 0.8),
)  # fmt: skip
def test_tiles_cover_the_image_and_overlap(
    width: int, height: int, columns: int, rows: int, overlap: float
) -> None:
    regions = tile_regions(width, height, (columns, rows), overlap)
    assert regions[0] == (0, 0, width, height)
    count = min(columns, width) * min(rows, height)
    tiles = regions[1:]
    assert len(tiles) == (0 if count == 1 else count)
    for r in tiles:
        assert 0 <= r.left < r.right <= width and 0 <= r.top < r.bottom <= height
    if tiles:
        covered_x, covered_y = np.zeros(width, int), np.zeros(height, int)
        for r in tiles:
            covered_x[r.left : r.right] += 1
            covered_y[r.top : r.bottom] += 1
        assert covered_x.min() >= 1 and covered_y.min() >= 1


def test_tile_has_the_camera_model_of_its_pixels() -> None:
    model = CameraModel.pinhole(640, 360, 400.0)
    image = np.arange(640 * 360, dtype=np.uint32).reshape(360, 640)
    pixels = np.repeat((image % 251).astype(np.uint8)[..., None], 3, axis=2)
    frame = SensorFrame(
        0,
        cameras={"c": CameraImage("c", 0, "c", pixels)},
        thermals={"t": ThermalImage("t", 0, "t", pixels[..., 0], valid=pixels[..., 0] > 7)},
        base_from_sensor={"c": np.eye(4), "t": np.eye(4)},
        intrinsics={"c": model, "t": model},
    )
    region = Region(100, 50, 300, 200)
    point = np.array([[-0.2, -0.1, 2.0]])
    u, v = model.project(point)[0][0]
    for name in ("c", "t"):
        tile = crop_frame(frame, name, region)
        assert (tile.intrinsics[name].width, tile.intrinsics[name].height) == (200, 150)
        np.testing.assert_allclose(tile.intrinsics[name].project(point)[0][0], (u - 100, v - 50))
    np.testing.assert_array_equal(
        crop_frame(frame, "c", region).cameras["c"].pixels, pixels[50:200, 100:300]
    )
    np.testing.assert_array_equal(
        crop_frame(frame, "t", region).thermals["t"].valid, pixels[50:200, 100:300, 0] > 7
    )
    assert crop_frame(frame, "c", Region(0, 0, 640, 360)) is frame


def test_boxes_that_inner_borders_cut_are_incomplete() -> None:
    boxes = np.array([[0, 0, 50, 50], [150, 60, 199, 90], [150, 60, 180, 90], [20, 100, 60, 149.5]],
                     np.float32)  # fmt: skip
    tile = Region(0, 0, 200, 150)
    assert is_complete(boxes, tile, 640, 360).tolist() == [True, False, True, False]
    assert is_complete(boxes, tile, 200, 150).all()  # the borders are those of the image
