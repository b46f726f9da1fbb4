"""Recordings that cannot be read have one answer in all commands; damaged ones raise clear errors."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Writer
from rosbags.typesys import Stores, get_typestore

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset
from test.bag_messages import CLOUD, START_NS, TF, TYPES, cloud, transform, write_messages


@pytest.fixture(scope="module")
def street() -> SyntheticDataset:
    return SyntheticDataset(frames=2, rings=4, columns=32)


@pytest.fixture(scope="module", params=["sqlite3", "mcap"])
def bag(request: Any, street: SyntheticDataset, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("bags") / "street"
    write_bag(street, street.rig, path, request.param)
    return path


@pytest.fixture
def ros1(tmp_path: Path) -> Path:
    """A ROS 1 bag with an Imu and a String topic."""
    path, store = tmp_path / "drive.bag", get_typestore(Stores.ROS1_NOETIC)
    with Ros1Writer(path) as writer:
        name = "std_msgs/msg/String"
        connection = writer.add_connection("/chatter", name, typestore=store)
        message = store.types[name](data="hello")
        writer.write(connection, 1, store.serialize_ros1(message, name))
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["rig", "check", "synthetic", "--bag", "BAG", "--out", "OUT.png"],
        ["draw", "BAG", "--out", "OUT.png"],
        ["draw", "BAG", "--dataset", "bag", "--out", "OUT.png"],
        ["evaluate", "detections", "--root", "BAG", "--detector", "geometric"],
        ["evaluate", "detections", "--dataset", "bag", "--root", "BAG", "--detector", "geometric"],
        ["replay", "BAG"],
        ["calibrate", "check", "BAG"],
        ["convert", "--root", "BAG", "--out", "OUT"],
        ["convert", "--dataset", "bag", "--root", "BAG", "--out", "OUT"],
    ],
)
def test_ros1_bag_has_one_answer_in_all_commands(
    command: list[str], ros1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (ros1, ros1.rename(tmp_path / "renamed.bag")):
        if not path.exists():
            continue
        arguments = [
            a.replace("BAG", str(path)).replace("OUT", str(tmp_path / "o")) for a in command
        ]
        assert main(arguments) == 2
        out = path.with_name(f"{path.stem}_ros2")
        expected = (
            f"error: {path}: a ROS 1 bag; convert it to a rosbag2 bag, then use the result: "
            f"rosbags-convert --src {path} --dst {out}\n"
            "its topics (1):\n  /chatter  std_msgs/msg/String  1\n"
        )
        assert capsys.readouterr().err.endswith(expected)


def test_ros1_bag_is_recognised_by_its_content_and_in_a_folder(ros1: Path, tmp_path: Path) -> None:
    for path in (ros1, ros1.parent):
        with pytest.raises(DatasetError, match=r"a ROS 1 bag; convert it .* --src .*drive\.bag"):
            open_dataset(path)
    renamed = ros1.rename(tmp_path / "drive.mcap")
    with pytest.raises(DatasetError, match="a ROS 1 bag"):
        open_dataset(renamed)


def test_damaged_ros1_bag_names_the_conversion(ros1: Path) -> None:
    ros1.write_bytes(ros1.read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"a ROS 1 bag.*\n?its topics cannot be read"):
        open_dataset(ros1)


def test_single_files_and_folders_without_metadata_are_read(
    bag: Path, street: SyntheticDataset, tmp_path: Path
) -> None:
    data = next(p for p in bag.iterdir() if p.suffix != ".yaml")
    alone = tmp_path / "alone" / data.name
    alone.parent.mkdir()
    shutil.copy(data, alone)
    for path in (data, alone, alone.parent, bag / "metadata.yaml"):
        loaded = open_dataset(path)
        assert len(loaded) == len(street)
        assert np.array_equal(loaded[0].lidars["lidar"].points, street[0].lidars["lidar"].points)


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_zstd_bags_are_read(mode: CompressionMode, tmp_path: Path) -> None:
    path = tmp_path / "bag"
    writer = Writer(path, version=9)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    entries = [
        (CLOUD, "/lidar", cloud(0, "lidar")),
        (TF, "/tf_static", transform("base_link", "lidar", 1.0)),
    ]
    with writer:
        for name, topic, message in entries:
            connection = writer.add_connection(topic, name, typestore=TYPES.store)
            writer.write(connection, START_NS, TYPES.store.serialize_cdr(message, name))
    assert open_dataset(path)[0].present == {"lidar"}
    if mode is CompressionMode.FILE:
        file = next(p for p in path.iterdir() if p.suffix == ".zstd")
        with pytest.raises(DatasetError, match="give the folder"):
            open_dataset(file)
        (path / "metadata.yaml").unlink()
        for single in (file, path):
            with pytest.raises(DatasetError, match="zstd -d"):
                open_dataset(single)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("storage_identifier", "my_storage", "allowed: sqlite3, mcap"),
        ("version", "42", "version 42 not supported"),
        ("compression_format", "lz4", "convert it to zstd"),
        ("serialization_format", "cbor", "only CDR"),
        ("relative_file_paths", "[gone.db3]", "not in the folder"),
    ],
)
def test_unsupported_metadata_names_what_is_supported(
    key: str, value: str, message: str, bag: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "bag"
    shutil.copytree(bag, copy)
    path = copy / "metadata.yaml"
    lines = path.read_text().splitlines()
    changed = []
    for line in lines:
        name = line.strip().split(":")[0]
        indent = line[: len(line) - len(line.lstrip())]
        is_file = line.strip().startswith("- ") and changed and key in changed[-1]
        if key == "relative_file_paths" and is_file:
            continue
        changed.append(f"{indent}{key}: {value}" if name == key else line)
        if key == "compression_format" and name == "compression_mode":
            changed[-1] = f"{indent}compression_mode: file"
    path.write_text("\n".join(changed))
    with pytest.raises(DatasetError, match=message):
        open_dataset(copy)


def test_several_files_without_metadata_name_the_reindexing(bag: Path, tmp_path: Path) -> None:
    data = next(p for p in bag.iterdir() if p.suffix != ".yaml")
    for name in ("a", "b"):
        shutil.copy(data, tmp_path / f"{name}{data.suffix}")
    with pytest.raises(DatasetError, match="ros2 bag reindex"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.mcap", b"", "the file is empty"),
        ("a.db3", b"", "the file is empty"),
        ("a.db3", b"\x89MCAP0\r\n123456789", "that of a .mcap file: rename it"),
        ("a.mcap", b"\x89MCAP0\r\n" + bytes(40), "not a readable rosbag2"),
        ("a.mcap", b"\x89MCAP0\r\n\x01" + b"\xff" * 60, "not a readable rosbag2"),
        ("a.db3", b"SQLite format 3\x00" + bytes(100), "not a readable rosbag2"),
        ("a.bag.gz", b"x", "unpack it first"),
        ("a.mcap.zst", b"x", "zstd -d"),
        ("a.bag", b"x", "a ROS 1 bag"),
    ],
)
def test_files_that_are_no_bag(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=message) as error:
        open_dataset(path)
    assert str(path) in str(error.value)


def test_messages_with_wrong_cdr_are_counted(tmp_path: Path) -> None:
    """Truncated messages, and lengths that exceed the message, are dropped; the others are used."""
    step = 100_000_000
    static = (0, "/tf_static", TF, transform("base_link", "lidar", 1.0))
    entries = [(k * step, "/lidar", CLOUD, cloud(k * step, "lidar")) for k in range(6)]
    path = write_messages(tmp_path / "bag", [static, *entries])
    database = next(path.glob("*.db3"))
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "SELECT messages.id, data FROM messages JOIN topics ON topic_id = topics.id "
            "WHERE topics.name = '/lidar' ORDER BY messages.id"
        ).fetchall()
        damaged = {
            1: rows[1][1][:20],  # within the header
            2: rows[2][1][:-40],  # within the points
            3: rows[3][1][:12] + b"\xff\xff\xff\x7f" + rows[3][1][16:],  # a frame_id of 2 GB
            4: rows[4][1][:6],  # not even a stamp
        }
        for k, data in damaged.items():
            connection.execute("UPDATE messages SET data = ? WHERE id = ?", (data, rows[k][0]))
    bag = BagDataset(path)
    frames = list(bag)
    assert [("lidar" in f.present, "lidar" in f.dropped) for f in frames] == [
        (True, False),
        (False, True),
        (False, True),
        (False, True),
        (True, False),
    ]
    assert bag.drops["lidar", "undecodable"] == 3
    assert bag.drops["lidar", "bad_stamp"] == 1


def test_wrong_types_of_calibration_topics_are_counted(
    street: SyntheticDataset, tmp_path: Path
) -> None:
    from dataclasses import replace

    write_bag(street, street.rig, tmp_path / "bag")
    sensors = dict(street.rig.sensors)
    sensors["camera"] = replace(sensors["camera"], camera_info_topic="/lidar/points")
    del sensors["lidar"]
    bag = BagDataset(tmp_path / "bag", replace(street.rig, sensors=sensors))
    assert bag.drops["/lidar/points", "wrong_type"] == 2


def test_type_of_the_bag_is_used_if_it_fits_the_modality(
    street: SyntheticDataset, tmp_path: Path
) -> None:
    from dataclasses import replace

    write_bag(street, street.rig, tmp_path / "bag")
    compressed = "sensor_msgs/msg/CompressedImage"
    sensors = {n: replace(s, topic=s.topic.lstrip("/")) for n, s in street.rig.sensors.items()}
    sensors["camera"] = replace(sensors["camera"], message=compressed)
    bag = BagDataset(tmp_path / "bag", replace(street.rig, sensors=sensors))
    assert bag[0].present == {"camera", "lidar"}
    assert any(f"the rig has {compressed}" in n for n in bag.notes)
