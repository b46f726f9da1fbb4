"""The KITTI reader: generated frames with known values, invalid files, and real frames."""

from __future__ import annotations

import math
import struct
import zlib

import cv2
import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.kitti import (
    LIDAR_HEIGHT,
    KittiDataset,
    read_annotations,
    read_calibration,
    read_labels,
    read_velodyne,
)
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry.boxes import corners
from multimodal_perception.geometry.poses import is_rigid

# Camera 2 is 0.1 m to the right of camera 0, which is at the LiDAR and faces along its x axis.
CALIBRATION = """P0: 700 0 600 0 0 700 180 0 0 0 1 0
P2: 700 0 600 -70 0 700 180 0 0 0 1 0
R0_rect: 1 0 0 0 1 0 0 0 1
Tr_velo_to_cam: 0 -1 0 0 0 0 -1 0 1 0 0 0

"""
LABELS = """Car 0.00 0 -1.57 100 100 200 200 1.50 1.60 4.00 2.00 1.73 10.00 0.00
Pedestrian 0.00 0 0.00 100 100 200 200 1.80 0.50 0.60 -3.00 1.73 20.00 -1.5707963
DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10
Tram 0.00 0 0.00 100 100 200 200 3.00 2.50 12.0 0.00 1.73 40.00 3.00 0.87
"""
POINTS = np.array(
    [
        [10.0, -2.0, -1.0, 0.5],
        [10.5, -2.5, -0.5, 0.25],
        [50.0, 5.0, 2.0, 0.0],
        [np.nan, 0, 0, 0],
    ],
    np.float32,
)


@pytest.fixture
def root(tmp_path):
    """Two frames: 000000 is complete, 000007 has only points."""
    for name in ("velodyne", "calib", "image_2", "label_2"):
        (tmp_path / name).mkdir()
    POINTS.tofile(tmp_path / "velodyne" / "000000.bin")
    POINTS[:1].tofile(tmp_path / "velodyne" / "000007.bin")
    (tmp_path / "calib" / "000000.txt").write_text(CALIBRATION)
    (tmp_path / "label_2" / "000000.txt").write_text(LABELS)
    pixels = np.random.default_rng(0).integers(0, 256, (370, 1240, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image_2" / "000000.png"), pixels)
    return tmp_path


def test_frames_are_ordered_by_file_name(root):
    kitti = KittiDataset(root)
    frames = list(kitti)
    assert len(kitti) == len(frames) == 2
    assert frames[1].stamp_ns - frames[0].stamp_ns == 100_000_000
    assert [len(f.lidars["lidar"].points) for f in frames] == [3, 1]
    assert kitti[-1].stamp_ns == frames[1].stamp_ns
    for index in (2, -3):
        with pytest.raises(IndexError):
            kitti[index]


def test_points_are_read_without_non_finite_ones(root):
    frame = KittiDataset(root)[0]
    np.testing.assert_array_equal(frame.lidars["lidar"].points, POINTS[:3])
    np.testing.assert_allclose(frame.points_in_base()[:, 2], POINTS[:3, 2] + LIDAR_HEIGHT)


def test_image_is_read_unchanged(root):
    image = KittiDataset(root)[0].cameras["camera"]
    np.testing.assert_array_equal(
        image.rgb()[..., ::-1], cv2.imread(str(root / "image_2" / "000000.png"))
    )


def test_point_is_projected_according_to_the_calibration(root):
    frame = KittiDataset(root)[0]
    optical_from_base = np.linalg.inv(frame.base_from_sensor["camera"])
    point = optical_from_base @ [10.0, -2.0, -1.0 + LIDAR_HEIGHT, 1]
    # 2 m right of the LiDAR, so 1.9 m right of camera 2; 1 m below it and 10 m ahead.
    np.testing.assert_allclose(point[:3], [1.9, 1.0, 10.0], atol=1e-9)
    pixels, in_image = frame.intrinsics["camera"].project(point[:3])
    np.testing.assert_allclose(pixels, [[600 + 133, 180 + 70]], atol=1e-9)
    assert in_image.all()


def test_labels_are_transformed_to_base_link(root):
    labels = KittiDataset(root)[0].labels
    assert [CLASS_NAMES[i] for i in labels.labels] == ["car", "pedestrian", "bus"]
    # rotation_y 0 faces to the camera's right, -90 degrees faces forward.
    expected = [
        [10, -2, 0.75, 4.0, 1.6, 1.5, -math.pi / 2],
        [20, 3, 0.9, 0.6, 0.5, 1.8, 0],
        [40, 0, 1.5, 12.0, 2.5, 3.0, -math.pi / 2 - 3.0 + 2 * math.pi],
    ]
    np.testing.assert_allclose(labels.boxes, expected, atol=1e-5)
    np.testing.assert_array_equal(labels.num_points, [2, 0, 0])
    assert labels.frame_id == "base_link"


def test_frame_without_calibration_has_no_camera(root):
    frame = KittiDataset(root)[1]
    assert frame.present == {"lidar"} and frame.missing == {"camera"}
    assert frame.labels is None


def test_only_the_velodyne_folder_is_required(tmp_path):
    (tmp_path / "velodyne").mkdir()
    POINTS.tofile(tmp_path / "velodyne" / "a.bin")
    kitti = KittiDataset(tmp_path)
    assert list(kitti.rig.sensors) == ["lidar"]
    assert kitti[0].missing == frozenset()


@pytest.mark.parametrize("name", ["image_2", "label_2"])
def test_image_and_labels_are_optional(root, name):
    for path in (root / name).iterdir():
        path.unlink()
    frame = KittiDataset(root)[0]
    assert (frame.labels is None) == (name == "label_2")
    assert ("camera" in frame.cameras) == (name != "image_2")


def test_folder_without_sweeps_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DatasetError, match=r"no velodyne/\*\.bin"):
            KittiDataset(folder)
    assert issubclass(DatasetError, UserError)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(15), bytes(17), bytes(18), bytes(20), np.full(8, np.nan, "f4").tobytes()],
    ids=["empty", "15 bytes", "17 bytes", "18 bytes", "20 bytes", "not finite"],
)
def test_sweep_without_valid_points_raises_error_with_file_name(root, data):
    (root / "velodyne" / "000000.bin").write_bytes(data)
    with pytest.raises(DatasetError, match=r"000000\.bin: "):
        KittiDataset(root)[0]


def test_missing_sweep_raises_error_with_file_name(tmp_path):
    with pytest.raises(DatasetError, match=r"gone\.bin: No such file"):
        read_velodyne(tmp_path / "gone.bin")
    with pytest.raises(DatasetError):
        read_velodyne(tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("R0_rect", "R0_rekt"),
        ("P2: 700 0", "P2: 700"),
        ("P2: 700 0", "P2: 700 0 0"),
        ("P2: 700", "P2: seven"),
        ("P2: 700", "P2: nan"),
        ("P2: 700", "P2: inf"),
        ("P2: 700 0 600 -70 0 700 180 0 0 0 1 0", "P2: 0 0 0 0 0 0 0 0 0 0 0 0"),
        ("P2: 700", "P2: -700"),
        ("P2: 700", "P2: 0"),
        ("R0_rect: 1", "R0_rect: 2"),
        ("R0_rect: 1", "R0_rect: -1"),
        ("Tr_velo_to_cam: 0 -1 0 0", "Tr_velo_to_cam: 0 0 0 0"),
        ("P0", "é"),
        (CALIBRATION, ""),
    ],
)
def test_invalid_calibration_raises_error_with_file_name(root, old, new):
    (root / "calib" / "000000.txt").write_text(CALIBRATION.replace(old, new), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"000000\.txt"):
        KittiDataset(root)[0]


def test_calibration_error_names_the_line(root):
    path = root / "calib" / "000000.txt"
    path.write_text(CALIBRATION.replace("P2: 700 0", "P2: 700 x"))
    with pytest.raises(DatasetError, match=r"000000\.txt:2: P2: "):
        read_calibration(path)


@pytest.mark.parametrize(
    "line",
    [
        "Car",
        "Spaceship 0.00 0 -1.57 100 100 200 200 1.50 1.60 4.00 2.00 1.73 10.00 0.00",
        "Car 0.00 0 -1.57 100 100 200 200 1.50 1.60 4.00 2.00 1.73 10.00",
        "Car 0.00 0 -1.57 100 100 200 200 1.50 1.60 4.00 2.00 1.73 10.00 0.00 0.5 7",
        "Car 0.00 0 -1.57 100 100 200 200 high 1.60 4.00 2.00 1.73 10.00 0.00",
        "Car 0.00 0 -1.57 100 100 200 200 nan 1.60 4.00 2.00 1.73 10.00 0.00",
        "Car 0.00 0 -1.57 100 100 200 200 1.50 1.60 4.00 2.00 1.73 10.00 inf",
        "{'Car': 1}",
        "é",
    ],
)
def test_invalid_label_raises_error_with_file_name(root, line):
    path = root / "label_2" / "000000.txt"
    path.write_text(LABELS.splitlines()[0] + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"000000\.txt"):
        KittiDataset(root)[0]


@pytest.mark.parametrize("text", ["", "\n\n", LABELS.splitlines()[2]])
def test_label_file_without_objects_gives_no_boxes(root, text):
    path = root / "label_2" / "000000.txt"
    path.write_text(text)
    assert len(KittiDataset(root)[0].labels) == 0
    boxes, labels = read_labels(path, np.eye(4))
    assert boxes.shape == (0, 7) and labels.shape == (0,)


def png_of_size(width, height):
    """A PNG whose header states a size that its data does not have."""
    data = bytearray(cv2.imencode(".png", np.zeros((2, 2), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"no image", b"\x89PNG\r\n\x1a\n", png_of_size(60_000, 60_000)],
    ids=["empty", "text", "signature only", "huge"],
)
def test_invalid_image_raises_error_with_file_name(root, data):
    (root / "image_2" / "000000.png").write_bytes(data)
    with pytest.raises(DatasetError, match=r"000000\.png"):
        KittiDataset(root)[0]


@pytest.fixture(scope="session")
def real(shared_data):
    """Real frames of KITTI."""
    return KittiDataset(shared_data / "kitti" / "training")


def test_real_frames_are_complete(real):
    assert len(real) == 3
    for frame in real:
        assert frame.missing == frozenset()
        assert is_rigid(frame.base_from_sensor["camera"], 1e-2)
        assert len(frame.labels) > 0
        # Most of the road lies at z = 0 below the LiDAR.
        z = frame.points_in_base()[:, 2]
        assert abs(np.median(z[np.abs(z) < 0.5])) < 0.2


def test_real_labels_contain_points(real):
    near = [f.labels.num_points[np.linalg.norm(f.labels.boxes[:, :2], axis=1) < 25] for f in real]
    assert (np.concatenate(near) > 20).mean() > 0.8


@pytest.mark.parametrize("index", range(3))
def test_projected_real_boxes_match_the_labelled_image_boxes(real, index):
    frame = real[index]
    path = real.root / "label_2" / f"{real.stems[index]}.txt"
    lines = [line.split() for line in path.read_text().splitlines() if "DontCare" not in line]
    camera = frame.intrinsics["camera"]
    optical_from_base = np.linalg.inv(frame.base_from_sensor["camera"])
    checked = 0
    for words, points in zip(lines, corners(frame.labels.boxes), strict=True):
        if float(words[1]) > 0:  # truncated by the image border
            continue
        pixels, in_image = camera.project(
            points @ optical_from_base[:3, :3].T + optical_from_base[:3, 3]
        )
        assert in_image.mean() > 0.5
        low, high = np.nanmin(pixels, axis=0), np.nanmax(pixels, axis=0)
        left, top, right, bottom = map(float, words[4:8])
        np.testing.assert_allclose([*low, *high], [left, top, right, bottom], atol=20)
        checked += 1
    assert checked > 0


def test_real_points_are_projected_as_in_kittis_formula(real):
    frame = real[0]
    matrices = read_calibration(real.root / "calib" / f"{real.stems[0]}.txt")
    points = frame.lidars["lidar"].points[::50, :3].astype(np.float64)
    points = points[points[:, 0] > 3]
    rectified = matrices["R0_rect"] @ (
        matrices["Tr_velo_to_cam"] @ np.column_stack([points, np.ones(len(points))]).T
    )
    image = matrices["P2"] @ np.vstack([rectified, np.ones(len(points))])
    expected = (image[:2] / image[2]).T
    pose = np.linalg.inv(frame.base_from_sensor["camera"]) @ frame.base_from_sensor["lidar"]
    pixels, in_image = frame.intrinsics["camera"].project(points @ pose[:3, :3].T + pose[:3, 3])
    assert in_image.sum() > 100
    np.testing.assert_allclose(pixels[in_image], expected[in_image], atol=0.05)


def test_truncation_occlusion_and_image_boxes_are_read(tmp_path):
    path = tmp_path / "label.txt"
    path.write_text(
        "Car 0.34 2 -1.84 937.29 197.39 1241.00 374.00 1.39 1.44 3.08 3.81 1.64 6.15 -1.31\n"
        "DontCare -1 -1 -10 800.38 163.67 825.45 184.07 -1 -1 -1 -1000 -1000 -1000 -10\n"
    )
    annotations = read_annotations(path, np.eye(4))
    assert annotations.types == ("Car", "DontCare")
    assert annotations.truncation.tolist() == [0.34, -1.0]
    assert annotations.occlusion.tolist() == [2, -1]
    assert annotations.image_boxes[0].tolist() == [937.29, 197.39, 1241.0, 374.0]
    assert annotations.boxes[0, 3:6] == pytest.approx([3.08, 1.44, 1.39])
    assert not annotations.boxes[1].any()
    boxes, labels = read_labels(path, np.eye(4))
    assert len(boxes) == len(labels) == 1 and np.array_equal(boxes[0], annotations.boxes[0])
    path.write_text(
        "Car 0.34 2 -1.84 937.29 197.39 nan 374.00 1.39 1.44 3.08 3.81 1.64 6.15 -1.31\n"
    )
    with pytest.raises(DatasetError, match=r"label.txt:1: expected finite numbers"):
        read_annotations(path, np.eye(4))
