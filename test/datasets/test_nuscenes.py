"""The reader of nuScenes samples: a generated sample, invalid files, and a real sample."""

from __future__ import annotations

import copy
import json
import math

import cv2
import numpy as np
import pytest

from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.frame import CLASS_NAMES
from multimodal_perception.geometry import poses
from multimodal_perception.geometry.boxes import points_in_box

# The LiDAR's x axis points to the right of the vehicle, its y axis forward, like the camera.
BASE_FROM_LIDAR = poses.from_xyz_rpy((0.9, 0, 1.8), (0, 0, -math.pi / 2))
OPTICAL_FROM_LIDAR = np.array([[1, 0, 0, 0], [0, 0, -1, -0.3], [0, 1, 0, -0.4], [0, 0, 0, 1.0]])
POINTS = np.array(
    [[0, 10, -1, 12, 3], [0.5, 10, -1, 200, 31], [5, 5, 5, 5, 0], [np.inf, 0, 0, 0, 1]],
    np.float32,
)
INFO = {
    "metainfo": {"categories": {"car": 0, "bicycle": 5, "traffic_cone": 8, "animal": 11}},
    "data_list": [
        {
            "timestamp": 1532402927.647951,
            "ego2global": poses.from_xyz_rpy((400, 1100, 0), (0, 0, 0.5)).tolist(),
            "lidar_points": {
                "lidar_path": "sweep.pcd.bin",
                "num_pts_feats": 5,
                "lidar2ego": BASE_FROM_LIDAR.tolist(),
            },
            "images": {
                "CAM_FRONT": {
                    "img_path": "a__CAM_FRONT__1532402927612460.png",
                    "cam2img": [[100, 0, 32], [0, 100, 24], [0, 0, 1]],
                    "lidar2cam": OPTICAL_FROM_LIDAR.tolist(),
                }
            },
            "instances": [
                {"bbox_3d": [0, 10, -1, 4, 2, 1.5, math.pi / 2], "bbox_label_3d": 0,
                 "velocity": [0.0, 3.0]},
                {"bbox_3d": [3, 20, -1, 2, 1, 1.5, 0.0], "bbox_label_3d": 5,
                 "velocity": [math.nan, math.nan]},
                {"bbox_3d": [-3, 20, -1, 1, 1, 1, 0.0], "bbox_label_3d": 11, "velocity": [0, 0]},
                {"bbox_3d": [-9, 20, -1, 1, 1, 1, 0.0], "bbox_label_3d": 99, "velocity": [0, 0]},
            ],
        }
    ],
}  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "frame.json").write_text(json.dumps(INFO))
    POINTS.tofile(tmp_path / "sweep.pcd.bin")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a__CAM_FRONT__1532402927612460.png"), pixels)
    return tmp_path


def write(root, path, value):
    """Write INFO with the value at a dotted path replaced, or removed if the value is `...`."""
    info = copy.deepcopy(INFO)
    *folders, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    target = info
    for folder in folders:
        target = target[folder]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    (root / "frame.json").write_text(json.dumps(info))


def test_sample_is_read_unchanged(root):
    data = NuScenesSampleDataset(root)
    assert len(data) == 1 and list(data.rig.sensors) == ["lidar_top", "cam_front"]
    (frame,) = data
    assert frame.missing == frozenset()
    assert abs(frame.stamp_ns - 1532402927647951000) < 1000
    assert frame.cameras["cam_front"].stamp_ns == 1532402927612460000
    sweep = frame.lidars["lidar_top"]
    np.testing.assert_array_equal(sweep.points, POINTS[:3, :4])
    np.testing.assert_array_equal(sweep.rings, [3, 31, 0])
    np.testing.assert_allclose(frame.odom_from_base, INFO["data_list"][0]["ego2global"], atol=1e-12)
    np.testing.assert_array_equal(
        frame.cameras["cam_front"].rgb()[..., ::-1],
        cv2.imread(str(root / "a__CAM_FRONT__1532402927612460.png")),
    )


def test_labels_are_transformed_to_base_link(root):
    labels = NuScenesSampleDataset(root)[0].labels
    assert labels.frame_id == "base_link"
    expected = [
        [10.9, 0, 0.8, 4, 2, 1.5, 0],
        [20.9, -3, 0.8, 2, 1, 1.5, -math.pi / 2],
        [20.9, 3, 0.8, 1, 1, 1, -math.pi / 2],
        [20.9, 9, 0.8, 1, 1, 1, -math.pi / 2],
    ]
    np.testing.assert_allclose(labels.boxes, expected, atol=1e-5)
    names = [CLASS_NAMES[i] for i in labels.labels]
    assert names == ["car", "cyclist", "unknown", "unknown"]
    # 3 m/s along the LiDAR's y axis is forward; an unmeasured velocity (NaN) is read as zero.
    np.testing.assert_allclose(labels.velocities, [[3, 0], [0, 0], [0, 0], [0, 0]], atol=1e-6)
    np.testing.assert_array_equal(labels.num_points, [2, 0, 0, 0])


def test_point_is_projected_according_to_the_calibration(root):
    frame = NuScenesSampleDataset(root)[0]
    point = poses.transform_points(BASE_FROM_LIDAR, np.array([1.0, 10.4, -0.3]))
    optical = poses.transform_points(poses.inverse(frame.base_from_sensor["cam_front"]), point)
    np.testing.assert_allclose(optical, [1, 0, 10], atol=1e-9)
    pixels, in_image = frame.intrinsics["cam_front"].project(optical)
    np.testing.assert_allclose(pixels, [[42, 24]], atol=1e-9)
    assert in_image.all()


def test_index_out_of_range_raises_index_error(root):
    data = NuScenesSampleDataset(root)
    assert data[-1].stamp_ns == data[0].stamp_ns
    for index in (1, -2):
        with pytest.raises(IndexError):
            data[index]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"metainfo": {}}',
        '{"metainfo": {"categories": {}}, "data_list": []}',
        '{"metainfo": {"categories": {}}, "data_list": 3}',
        '{"metainfo": {"categories": []}, "data_list": [{"images": {}}]}',
        '{"metainfo": {"categories": {"a": []}}, "data_list": [{"images": {}}]}',
        '{"metainfo": {"categories": {}}, "data_list": [{"images": [3]}]}',
        "[" * 100_000,
    ],
)
def test_invalid_info_file_raises_error_with_file_name(root, text):
    (root / "frame.json").write_text(text)
    with pytest.raises(DatasetError, match=r"frame\.json: not a nuScenes info file"):
        NuScenesSampleDataset(root)


def test_missing_or_binary_info_file_is_refused(root):
    (root / "frame.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"frame\.json"):
        NuScenesSampleDataset(root)
    with pytest.raises(DatasetError, match=r"frame\.json"):
        NuScenesSampleDataset(root / "none")


SAMPLE = "data_list.0"
FRONT = f"{SAMPLE}.images.CAM_FRONT"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (f"{SAMPLE}.timestamp", ...),
        (f"{SAMPLE}.timestamp", "now"),
        (f"{SAMPLE}.timestamp", math.nan),
        (f"{SAMPLE}.timestamp", math.inf),
        (f"{SAMPLE}.ego2global", ...),
        (f"{SAMPLE}.ego2global", [[1, 0], [0, 1]]),
        (f"{SAMPLE}.ego2global", np.diag([2, 1, 1, 1]).tolist()),
        (f"{SAMPLE}.ego2global", "here"),
        (f"{SAMPLE}.lidar_points", ...),
        (f"{SAMPLE}.lidar_points.lidar2ego", np.zeros((4, 4)).tolist()),
        (f"{SAMPLE}.lidar_points.lidar2ego", np.full((4, 4), math.nan).tolist()),
        (f"{SAMPLE}.lidar_points.lidar_path", "../sweep.pcd.bin"),
        (f"{SAMPLE}.lidar_points.lidar_path", "/etc/passwd"),
        (f"{SAMPLE}.lidar_points.lidar_path", "none.bin"),
        (f"{SAMPLE}.lidar_points.lidar_path", "."),
        (f"{SAMPLE}.lidar_points.lidar_path", ""),
        (f"{SAMPLE}.lidar_points.lidar_path", 7),
        (f"{SAMPLE}.lidar_points.num_pts_feats", 3),
        (f"{SAMPLE}.lidar_points.num_pts_feats", 0),
        (f"{SAMPLE}.lidar_points.num_pts_feats", -5),
        (f"{SAMPLE}.lidar_points.num_pts_feats", 7),
        (f"{SAMPLE}.lidar_points.num_pts_feats", "many"),
        (f"{SAMPLE}.lidar_points.num_pts_feats", math.inf),
        (f"{FRONT}.img_path", "sweep.pcd.bin"),
        (f"{FRONT}.img_path", "frame.json"),
        (f"{FRONT}.cam2img", ...),
        (f"{FRONT}.cam2img", [100, 100, 1]),
        (f"{FRONT}.cam2img", np.zeros((3, 3)).tolist()),
        (f"{FRONT}.cam2img", "wide"),
        (f"{FRONT}.lidar2cam", np.diag([1, 1, -1, 1]).tolist()),
        (f"{FRONT}.lidar2cam", ...),
        (f"{SAMPLE}.images", {"CAM_FRONT": None}),
        (f"{SAMPLE}.instances", None),
        (f"{SAMPLE}.instances", [3]),
        (f"{SAMPLE}.instances.0.bbox_3d", [1, 2, 3]),
        (f"{SAMPLE}.instances.0.bbox_3d", ["x"] * 7),
        (f"{SAMPLE}.instances.0.bbox_3d", [math.nan] * 7),
        (f"{SAMPLE}.instances.0.bbox_label_3d", []),
        (f"{SAMPLE}.instances.0.velocity", [1]),
        (f"{SAMPLE}.instances.0.velocity", ...),
    ],
)
def test_invalid_sample_raises_error_with_folder(root, path, value):
    write(root, path, value)
    data = NuScenesSampleDataset(root)
    with pytest.raises(DatasetError) as caught:
        data[0]
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", bytes(19), bytes(16), bytes(22), np.full(10, np.nan, np.float32).tobytes()],
    ids=["empty", "19 bytes", "16 bytes", "22 bytes", "not finite"],
)
def test_sweep_without_valid_points_raises_error_with_file_name(root, data):
    (root / "sweep.pcd.bin").write_bytes(data)
    with pytest.raises(DatasetError, match=r"sweep\.pcd\.bin"):
        NuScenesSampleDataset(root)[0]


@pytest.mark.parametrize("data", [b"", b"no image"])
def test_invalid_image_raises_error_with_file_name(root, data):
    name = "a__CAM_FRONT__1532402927612460.png"
    (root / name).write_bytes(data)
    with pytest.raises(DatasetError, match="CAM_FRONT"):
        NuScenesSampleDataset(root)[0]


def test_image_without_a_stamp_in_its_name_is_refused(root):
    write(root, f"{FRONT}.img_path", "front.png")
    (root / "a__CAM_FRONT__1532402927612460.png").rename(root / "front.png")
    with pytest.raises(DatasetError, match=r"frame\.json: sample 0"):
        NuScenesSampleDataset(root)[0]


@pytest.fixture(scope="session")
def real(shared_data):
    """The frame of the real sample, and the content of its info file."""
    root = shared_data / "nuscenes_frame"
    info = json.loads((root / "frame.json").read_text())
    return NuScenesSampleDataset(root)[0], info["data_list"][0]


def test_real_sample_is_complete(real):
    frame, info = real
    assert len(frame.cameras) == 6 and frame.missing == frozenset()
    assert len(frame.labels) == len(info["instances"]) == 69
    for camera in frame.cameras.values():
        assert abs(camera.stamp_ns - frame.stamp_ns) < 100_000_000
    z = frame.points_in_base()[:, 2]
    assert abs(np.median(z[np.abs(z) < 0.5])) < 0.2


def test_real_boxes_contain_as_many_points_as_nuscenes_states(real):
    frame, info = real
    counted = np.array([i["num_lidar_pts"] for i in info["instances"]])
    np.testing.assert_allclose(frame.labels.num_points, counted, rtol=0.05, atol=2)
    points = frame.points_in_base()
    for i in np.argsort(counted)[-5:]:
        assert points_in_box(points, frame.labels.boxes[i]).sum() == frame.labels.num_points[i]


def test_real_cameras_face_in_the_directions_of_their_names(real):
    frame, _ = real
    headings = {
        "cam_front": 0,
        "cam_front_left": 55,
        "cam_front_right": -55,
        "cam_back_left": 110,
        "cam_back_right": -110,
        "cam_back": 180,
    }
    for name, heading in headings.items():
        forward = frame.base_from_sensor[name][:3, 2]
        angle = math.degrees(math.atan2(forward[1], forward[0]))
        assert abs(math.remainder(angle - heading, 360)) < 5


def test_every_real_box_with_many_points_is_in_an_image(real):
    frame, _ = real
    near = frame.labels.boxes[:, :3][frame.labels.num_points > 20].astype(np.float64)
    visible = np.zeros(len(near), bool)
    for name, camera in frame.intrinsics.items():
        optical_from_base = poses.inverse(frame.base_from_sensor[name])
        visible |= camera.project(poses.transform_points(optical_from_base, near))[1]
    assert len(near) > 5 and visible.all()
