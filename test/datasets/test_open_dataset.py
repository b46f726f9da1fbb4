"""The reader that fits a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimodal_perception.datasets.bag import Bag
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.kitti import Kitti
from multimodal_perception.datasets.nuscenes import NuScenesSample
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticStreet


def test_the_content_decides(shared_data: Path) -> None:
    assert isinstance(open_dataset(shared_data / "kitti" / "training"), Kitti)
    assert isinstance(open_dataset(shared_data / "nuscenes_frame"), NuScenesSample)
    assert isinstance(open_dataset("synthetic"), SyntheticStreet)


def test_a_real_frame_survives_a_bag(shared_data: Path, tmp_path: Path) -> None:
    kitti = open_dataset(shared_data / "kitti" / "training")
    write_bag(kitti, kitti.rig, tmp_path / "bag")
    bag = open_dataset(tmp_path / "bag")
    assert isinstance(bag, Bag)
    for ours, truth in zip(bag, kitti, strict=True):
        assert (ours.points_in_base() == truth.points_in_base()).all()
        assert (ours.cameras["camera"].pixels == truth.cameras["camera"].pixels).all()


@pytest.mark.parametrize("content", [None, "note.txt"])
def test_what_fits_nothing_is_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).write_text("hello")
    with pytest.raises(DatasetError, match="not a KITTI folder"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such"):
        open_dataset(tmp_path / "missing")


def test_a_rig_for_a_dataset_with_its_own_is_refused(tmp_path: Path) -> None:
    street = SyntheticStreet(frames=1, rings=4, columns=16)
    with pytest.raises(DatasetError, match="its own rig"):
        open_dataset("synthetic", rig=street.rig)
