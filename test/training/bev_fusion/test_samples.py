"""Samples of simulated drives: points, past sweeps, images and their ground truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import points_in_box
from multimodal_perception.geometry.cameras import CameraModel
from multimodal_perception.training.bev_fusion.drives import (
    open_drive,
    profile_of_seed,
    render_drive,
    rig_of_seed,
)
from multimodal_perception.training.bev_fusion.sample_files import image_views
from multimodal_perception.training.bev_fusion.samples import (
    FAR,
    MAX_DISTANCE,
    RANGE_STEP,
    SEGMENT_NAMES,
    build_sample,
    decode_image,
    image_keys,
    past_sweeps,
    sample_cells,
)
from test.training.bev_fusion.tiny import SEED, TINY, rendering, sample_arrays


def test_samples_have_all_sensors_at_the_sizes_of_the_network(tiny_samples: Path) -> None:
    sample = sample_arrays(tiny_samples)
    assert len(sample["points"]) > 10_000 and len(sample["ultrasonic"]) == 12
    assert [len(image_keys(sample, m)) for m in ("camera", "thermal")] == [2, 1]
    count = len(sample["boxes"])
    for key, (height, width) in (("camera0", TINY.camera_size), ("thermal0", TINY.thermal_size)):
        pixels = decode_image(sample[f"{key}.pixels"], Path("sample"))
        assert pixels.shape[:2] == (height, width) and pixels.std() > 5
        assert sample[f"{key}.semantics"].shape == (height // 4, width // 4)
        assert sample[f"{key}.ranges"].shape == (height // 8, width // 8)
        assert sample[f"{key}.object_pixels"].shape == (count,)
        assert sample[f"{key}.objects"].max() <= count
    assert sample["velocities"].shape == (count, 2)
    assert np.abs(sample["velocities"]).max() > 1.0


def test_true_ranges_and_objects_agree_with_the_labels(tiny_samples: Path) -> None:
    sample = sample_arrays(tiny_samples)
    (view, *_) = image_views(sample, "camera")
    objects, ranges = sample["camera0.objects"][::2, ::2], sample["camera0.ranges"]
    seen = 0
    for row, column in np.argwhere(objects > 0):
        if ranges[row, column] in (0, FAR):
            continue
        pixel = np.array([[8 * column + 3.5, 8 * row + 3.5]])
        ray = view.model.unproject(pixel)[0] @ view.base_from_optical[:3, :3].T
        point = view.base_from_optical[:3, 3] + ray * ranges[row, column] * RANGE_STEP
        box = sample["boxes"][objects[row, column] - 1].copy()
        box[3:6] += 1.5  # the centres of the cells of both maps differ by two pixels
        seen += int(points_in_box(point[None], box)[0])
    assert seen > 0.7 * (objects > 0).sum() > 3
    labels = sample["labels"][objects[objects > 0] - 1]
    names = {CLASS_NAMES[k] for k in labels}
    segments = {SEGMENT_NAMES[k] for k in sample["camera0.semantics"][::2, ::2][objects > 0]}
    assert names & segments and not segments & {"vegetation", "pole"}


def test_past_sweeps_are_in_the_present_frame(tiny_samples: Path) -> None:
    """Points of standing objects stay in their boxes, points of moving ones lie behind."""
    sample = sample_arrays(tiny_samples)
    sweeps = past_sweeps(sample)
    assert [round(s.age_s, 3) for s in sweeps] == [0.1, 0.2]
    inside = {True: [0, 0], False: [0, 0]}
    for box, v, points in zip(
        sample["boxes"], sample["velocities"], sample["num_points"], strict=True
    ):
        speed = np.hypot(*v)
        if points < 60 or np.hypot(*box[:2]) > 25 or 0.0 < speed < 5.0:
            continue
        for count, shift in enumerate((0.0, sweeps[1].age_s)):
            moved = box.copy()
            moved[:2] -= v * shift
            moved[2], moved[5] = 1.5, 4.0  # heights are above the ground
            moved[3:5] += 0.1
            inside[bool(speed > 0)][count] += int(points_in_box(sweeps[1].points, moved).sum())
    assert inside[False][0] > 20 and inside[False][0] == inside[False][1]
    assert inside[True][1] > 1.05 * inside[True][0] > 0


def test_the_detector_has_the_same_past_sweeps_as_a_sample() -> None:
    from multimodal_perception.detection.bev_fusion.past_sweep_buffer import PastSweepBuffer
    from multimodal_perception.training.bev_fusion.samples import visible_cloud

    simulation = open_drive(SEED, rendering(frames=1))
    index = rendering(frames=1).indices(SEED)[0]
    sample = build_sample(simulation, index, TINY)
    buffer = PastSweepBuffer(TINY.past_sweeps, 51.2)
    for k in range(index - TINY.past_sweeps, index):
        frame = simulation.sweeps(k)
        buffer.add(frame, visible_cloud(frame))
    expected = buffer.past_sweeps(simulation[index])
    for stored, other in zip(past_sweeps(sample), expected, strict=True):
        # The buffer has points beyond those of the sample.
        near = other.points[np.hypot(*other.points[:, :2].T) < MAX_DISTANCE - 0.01]
        kept = stored.points[np.hypot(*stored.points[:, :2].T) < MAX_DISTANCE - 0.01]
        assert stored.age_s == np.float32(other.age_s) and abs(len(kept) - len(near)) <= 3
        np.testing.assert_allclose(kept[:1000], near[:1000], atol=2e-3)


def test_a_sample_is_the_same_in_whichever_order_it_is_rendered(
    tiny_samples: Path, tmp_path: Path
) -> None:
    simulation = open_drive(SEED, rendering())
    last = rendering().indices(SEED)[-1]
    again = build_sample(simulation, last, TINY)
    stored = sample_arrays(tiny_samples, 2)
    assert set(again) == set(stored)
    for name, values in stored.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    assert render_drive(SEED, rendering(), tiny_samples) == 0, "existing samples are kept"


def test_samples_for_the_image_networks_have_no_points() -> None:
    simulation = open_drive(SEED, rendering(1, lidar=False))
    sample = build_sample(simulation, rendering(1).indices(SEED)[0], TINY, lidar=False)
    assert "camera0.pixels" in sample and "points" not in sample and not past_sweeps(sample)


def test_drives_have_both_profiles_and_mostly_random_rigs() -> None:
    fixed = rendering().rig
    profiles = [profile_of_seed(seed) for seed in range(100)]
    assert 10 < profiles.count("basic") < 20
    rigs = [rig_of_seed(seed, fixed) for seed in range(20)]
    assert sum(rig is fixed for rig in rigs) == 4
    assert len({rig.name for rig in rigs}) == 17
    assert rig_of_seed(3, fixed) == rigs[3]


def test_cells_have_the_value_at_their_centre() -> None:
    values = np.arange(60, dtype=np.int64).reshape(6, 10)
    model = CameraModel.pinhole(20, 12, 10.0)  # the image scaled by 2, in an input of 16 x 32
    cells = sample_cells(values, model, (16, 32), 4, -1)
    assert cells.shape == (4, 8)
    assert cells[0].tolist() == [11, 13, 15, 17, 19, -1, -1, -1]
    assert cells[:, 0].tolist() == [11, 31, 51, -1]
