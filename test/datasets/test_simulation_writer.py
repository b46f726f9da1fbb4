import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from multimodal_perception.cli.main import main
from multimodal_perception.datasets import simulation_writer
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import typestore
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.simulation_writer import (
    SimulationPlan,
    read_shard,
    shard_path,
    write_shards,
    write_simulation,
)
from multimodal_perception.rig import dump_rig
from test.simulation.rigs import small_rig, street


def raw_messages(path):
    with AnyReader([path], default_typestore=typestore()) as reader:
        return [(c.topic, ns, bytes(raw)) for c, ns, raw in reader.messages()]


def plan(frames=3, **changes):
    return SimulationPlan(street(), small_rig(), 4, frames, **changes)


def test_a_bag_contains_the_simulated_frames(tmp_path):
    written = plan()
    assert write_simulation(written, tmp_path / "bag") == 3
    bag, drive = BagDataset(tmp_path / "bag", written.rig), written.simulation()
    assert len(bag) == 3
    for index in range(3):
        read, frame = bag[index], drive[index]
        assert not read.missing
        np.testing.assert_allclose(read.odom_from_base, frame.odom_from_base, atol=1e-6)
        np.testing.assert_array_equal(read.cameras["camera"].pixels, frame.cameras["camera"].pixels)
        np.testing.assert_array_equal(
            read.thermals["thermal"].pixels, frame.thermals["thermal"].pixels
        )
        assert read.ultrasonics["sonar"].range_m == pytest.approx(
            frame.ultrasonics["sonar"].range_m
        )
        # Both sweeps are deskewed: one with /tf, one with the exact motion.
        np.testing.assert_allclose(
            read.lidars["lidar"].points, frame.lidars["lidar"].points, atol=0.005
        )
        np.testing.assert_allclose(read.labels.boxes, frame.labels.boxes, atol=1e-4)
        np.testing.assert_array_equal(read.labels.track_ids, frame.labels.track_ids)
        np.testing.assert_array_equal(read.labels.visibility, frame.labels.visibility)
        assert read.labels.num_points is not None
    topics = {topic for topic, *_ in raw_messages(tmp_path / "bag")}
    expected = ["/tf", "/tf_static", "/odom", "occupancy", "semantic_grid", "visibility", "classes"]
    expected += ["camera/depth", "thermal/instance", "fisheye/semantic", "lidar/semantic"]
    for name in expected:
        assert name in topics or f"/ground_truth/{name}" in topics


def test_the_rig_is_derived_from_a_bag(tmp_path):
    write_simulation(plan(2), tmp_path / "bag")
    bag = BagDataset(tmp_path / "bag")
    assert len(bag.rig.sensors) == len(small_rig().sensors)
    assert not bag[1].missing and not bag.drops


def test_a_bag_does_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        write_simulation(plan(4), tmp_path / str(workers), workers)
    assert raw_messages(tmp_path / "1") == raw_messages(tmp_path / "2")


def test_shards_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (1, 2):
        write_shards(plan(3), tmp_path / str(workers), workers)
    for index in range(3):
        one, two = (read_shard(shard_path(tmp_path / w, index)) for w in ("1", "2"))
        assert one.keys() == two.keys()
        assert all(one[k].tobytes() == two[k].tobytes() for k in one)


def interrupt_at(stop):
    """A progress function that is interrupted at a frame."""

    def progress(indices):
        for index in indices:
            if index == stop:
                raise KeyboardInterrupt
            yield index

    return progress


def test_an_interrupted_bag_is_valid_and_can_be_resumed(tmp_path):
    out = tmp_path / "bag"
    for stop, count in ((0, 0), (2, 2), (2, 2), (4, 4)):
        with pytest.raises(KeyboardInterrupt):
            write_simulation(plan(6), out, progress=interrupt_at(stop))
        if count:
            assert len(BagDataset(out, small_rig())) == count
    assert write_simulation(plan(6), out) == 6
    assert not list(out.glob(".*"))
    assert len(list(out.glob("*.mcap"))) == 4
    write_simulation(plan(6), tmp_path / "at once")
    assert raw_messages(out) == raw_messages(tmp_path / "at once")
    with AnyReader([out], default_typestore=typestore()) as reader:
        assert reader.message_count == sum(1 for _ in reader.messages())
    assert write_simulation(plan(6), out) == 6  # complete already


def test_only_an_intact_bag_of_the_same_simulation_is_resumed(tmp_path):
    out = tmp_path / "bag"
    write_simulation(plan(1), out)
    for other in (plan(2, conditions=("night",)), SimulationPlan(street(), small_rig(), 5, 2)):
        with pytest.raises(DatasetError, match="another simulation"):
            write_simulation(other, out)
    metadata = out / "metadata.yaml"
    valid = metadata.read_text()
    for broken in ("[]", "rosbag2_bagfile_information: {}", "a: [", valid.replace("/odom", "/o")):
        metadata.write_text(broken)
        with pytest.raises(DatasetError):
            write_simulation(plan(2), out)
    metadata.unlink()
    with pytest.raises(DatasetError, match="not closed"):
        write_simulation(plan(2), out)
    metadata.write_text(valid)
    assert write_simulation(plan(2), out) == 2


def test_a_full_disk_leaves_a_valid_bag(tmp_path, monkeypatch):
    free = iter([1 << 40, 1 << 40, 1 << 20])
    usage = simulation_writer.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        simulation_writer.shutil, "disk_usage", lambda _: usage._replace(free=next(free))
    )
    with pytest.raises(DatasetError, match="full; the bag contains 2 frames"):
        write_simulation(plan(6), tmp_path / "bag")
    assert len(BagDataset(tmp_path / "bag", small_rig())) == 2


def test_interrupted_shards_are_resumed(tmp_path):
    out = tmp_path / "shards"
    assert write_shards(plan(3), out) == 3
    first = shard_path(out, 1).read_bytes()
    shard_path(out, 1).unlink()
    assert write_shards(plan(3), out) == 1
    assert read_shard(shard_path(out, 1)).keys() == read_shard(shard_path(out, 0)).keys()
    assert len(first) == len(shard_path(out, 1).read_bytes())
    arrays = read_shard(shard_path(out, 2))
    assert len(arrays["lidar.points"]) == len(arrays["truth.lidar.semantics"])
    assert arrays["truth.camera.depth"].shape == (180, 320)
    with pytest.raises(DatasetError, match="another simulation"):
        write_shards(plan(3, conditions=("night",)), out)
    shard_path(out, 0).write_bytes(b"broken")
    with pytest.raises(DatasetError):
        read_shard(shard_path(out, 0))


def test_other_content_is_not_overwritten(tmp_path):
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "mine.txt").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        write_simulation(plan(), tmp_path / "bag")
    with pytest.raises(DatasetError, match="not empty"):
        write_shards(plan(), tmp_path / "bag")


def test_a_killed_run_keeps_its_finished_files_and_gives_the_same_bag(tmp_path, monkeypatch):
    """SIGKILL leaves an unfinished file without metadata, also in the first file of a bag."""
    monkeypatch.setattr(simulation_writer, "FRAMES_PER_FILE", 2)
    script = (
        "import os, pickle, signal\n"
        "from pathlib import Path\n"
        "from multimodal_perception.datasets import simulation_writer as s\n"
        "plan = pickle.loads(Path({plan!r}).read_bytes())\n"
        "s.FRAMES_PER_FILE = 2\n"
        "def progress(indices):\n"
        "    for i in indices:\n"
        "        if i == {last}: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        yield i\n"
        "s.write_simulation(plan, Path({out!r}), 1, progress)\n"
    )
    expected = tmp_path / "expected"
    (tmp_path / "plan").write_bytes(pickle.dumps(plan(5)))
    write_simulation(plan(5), expected)
    for last in (1, 3):
        out = tmp_path / f"killed{last}"
        code = script.format(last=last, out=str(out), plan=str(tmp_path / "plan"))
        killed = subprocess.run([sys.executable, "-c", code])
        assert killed.returncode == -signal.SIGKILL
        assert (out / "metadata.yaml").exists() == (last == 3)
        assert write_simulation(plan(5), out) == 5
        assert raw_messages(out) == raw_messages(expected)
        assert len(list(out.glob("*.mcap"))) == 3
        assert not (out / simulation_writer.PARTIAL_BAG).exists()


def test_the_command_writes_a_bag_and_reports_errors(tmp_path, capsys):
    rig = tmp_path / "rig.yaml"
    rig.write_text(dump_rig(small_rig()))
    arguments = ["simulate", "--rig", str(rig), "--frames", "2", "--workers", "1", "--scenario"]
    out = ["--out", str(tmp_path / "bag")]
    assert main([*arguments, "parking_lot", *out, "--condition", "night"]) == 0
    assert "2 frames" in capsys.readouterr().out
    assert len(BagDataset(tmp_path / "bag", small_rig())) == 2
    assert main([*arguments, "moon", *out]) == 2
    assert "urban_street" in capsys.readouterr().err
    assert main([*arguments, "warehouse", *out, "--fault", "outage:radar"]) == 2
    assert main([*arguments, "warehouse", *out, "--workers", "0"]) == 2
    out = ["--out", str(tmp_path / "other")]
    assert main(["simulate", "--rig", "tank", *out]) == 2
    assert "simulation" in capsys.readouterr().err
    assert main(["simulate", "--rig", "kitti", *out]) == 2  # it has no extrinsics
    assert "extrinsics" in capsys.readouterr().err
