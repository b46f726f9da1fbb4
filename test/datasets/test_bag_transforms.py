"""Static transforms of a bag are valid for the whole bag, wherever they were recorded."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_perception.cli.main import main
from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_transforms import BagTransforms
from multimodal_perception.notices import Notices
from test.bag_messages import CLOUD, TF, cloud, transform, write_messages

PERIOD_NS = 100_000_000
CLOUDS = [(k * PERIOD_NS, "/lidar/points", CLOUD, cloud(k * PERIOD_NS, "lidar")) for k in range(10)]
RIG = """
name: r
sensors: {lidar: {modality: lidar, topic: /lidar/points, frame_id: lidar}}
"""


@pytest.mark.parametrize("record_ns", [0, 450_000_000, 2_000_000_000])
@pytest.mark.parametrize("latched", [("/tf_static",), ()])
def test_static_transform_is_valid_for_the_whole_bag(
    record_ns: int, latched: tuple[str, ...], tmp_path: Path
) -> None:
    static = (record_ns, "/tf_static", TF, transform("base_link", "lidar", 1.5))
    bag = BagDataset(write_messages(tmp_path / "bag", [*CLOUDS, static], latched))
    assert len(bag) == 10
    assert {frame.base_from_sensor["lidar"][0, 3] for frame in bag} == {1.5}
    assert not +bag.drops


def test_static_transforms_in_several_messages_form_one_chain(tmp_path: Path) -> None:
    first = (0, "/tf_static", TF, transform("roof", "lidar", 0.5))
    second = (950_000_000, "/tf_static", TF, transform("base_link", "roof", 1.0))
    bag = BagDataset(write_messages(tmp_path / "bag", [*CLOUDS, first, second]))
    assert {frame.base_from_sensor["lidar"][0, 3] for frame in bag} == {1.5}


def test_changed_static_transform_is_used_by_time_with_a_notice(tmp_path: Path) -> None:
    changes = [
        (ns, "/tf_static", TF, transform("base_link", "lidar", x))
        for ns, x in ((250_000_000, 1.0), (450_000_000, 1.0), (650_000_000, 2.0))
    ]
    bag = BagDataset(write_messages(tmp_path / "bag", [*CLOUDS, *changes]))
    expected = [1.0] * 7 + [2.0] * 3
    assert [frame.base_from_sensor["lidar"][0, 3] for frame in bag] == expected
    order = [9, 0, 7, 6, 3, 8]  # in any order
    assert [bag[i].base_from_sensor["lidar"][0, 3] for i in order] == [expected[i] for i in order]
    (notice,) = [n for n in bag.notes if n.startswith("/tf_static")]
    assert "lidar changes 1 times (after 0.400 s)" in notice


def test_topic_in_a_namespace_is_used_if_it_is_the_only_one(tmp_path: Path) -> None:
    static = (0, "/robot/tf_static", TF, transform("base_link", "lidar", 1.5))
    bag = BagDataset(write_messages(tmp_path / "bag", [*CLOUDS, static]))
    assert bag[0].base_from_sensor["lidar"][0, 3] == 1.5
    assert any("/robot/tf_static is used" in n for n in bag.notes)


def test_moving_transform_of_the_same_frame_is_preferred_with_a_notice() -> None:
    notices = Notices()
    transforms = BagTransforms(Counter(), notices)
    transforms.add_static(0, transform("base_link", "boom", 1.0))
    transforms.add_moving(transform("base_link", "boom", 3.0, ns=5))
    tree = transforms.tree(0)
    stamp_ns = 1_700_000_000_000_000_005
    assert tree.lookup("base_link", "boom", stamp_ns)[0, 3] == 3.0
    assert "also on /tf" in notices.all()[0]


def test_rig_check_uses_late_static_transforms(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    static = (2_000_000_000, "/tf_static", TF, transform("base_link", "lidar", 1.5))
    write_messages(tmp_path / "bag", [*CLOUDS, static])
    (tmp_path / "rig.yaml").write_text(RIG)
    arguments = ["rig", "check", str(tmp_path / "rig.yaml"), "--bag", str(tmp_path / "bag")]
    main([*arguments, "--out", str(tmp_path / "p.png")])
    assert "no extrinsics" not in capsys.readouterr().out


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 1000), st.sampled_from([0.0, 1.0, 2.0])), min_size=1, max_size=8
    ),
    time=st.integers(-10, 1010),
)
def test_the_last_transform_until_a_time_applies(
    changes: list[tuple[int, float]], time: int
) -> None:
    changes = sorted(changes, key=lambda c: c[0])
    transforms = BagTransforms(Counter(), Notices())
    for record_ns, x in changes:
        transforms.add_static(record_ns, transform("base_link", "lidar", x))
    until = [x for record_ns, x in changes if record_ns <= time]
    expected = until[-1] if until else changes[0][1]
    pose = transforms.tree(time).lookup("base_link", "lidar", 0)
    assert np.isclose(pose[0, 3], expected)
