"""Detection of the data format at a path."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimodal_perception.datasets.bag import BagDataset
from multimodal_perception.datasets.bag_writer import write_bag
from multimodal_perception.datasets.dataset import DatasetError
from multimodal_perception.datasets.kitti import KittiDataset
from multimodal_perception.datasets.nuscenes import NuScenesSampleDataset
from multimodal_perception.datasets.open_dataset import open_dataset
from multimodal_perception.datasets.synthetic import SyntheticDataset


def test_reader_is_chosen_by_the_files_in_the_folder(shared_data: Path) -> None:
    assert isinstance(open_dataset(shared_data / "kitti" / "training"), KittiDataset)
    assert isinstance(open_dataset(shared_data / "nuscenes_frame"), NuScenesSampleDataset)
    assert isinstance(open_dataset("synthetic"), SyntheticDataset)


def test_real_frames_are_unchanged_by_conversion_to_a_bag(
    shared_data: Path, tmp_path: Path
) -> None:
    kitti = open_dataset(shared_data / "kitti" / "training")
    write_bag(kitti, kitti.rig, tmp_path / "bag")
    bag = open_dataset(tmp_path / "bag")
    assert isinstance(bag, BagDataset)
    for loaded, original in zip(bag, kitti, strict=True):
        assert (loaded.points_in_base() == original.points_in_base()).all()
        assert (loaded.cameras["camera"].pixels == original.cameras["camera"].pixels).all()


@pytest.mark.parametrize("content", [None, "note.txt"])
def test_unknown_format_and_missing_path_are_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / content).write_text("hello")
    with pytest.raises(DatasetError, match="expected a KITTI folder"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="no such"):
        open_dataset(tmp_path / "missing")


def test_rig_for_a_dataset_with_its_own_rig_is_refused(tmp_path: Path) -> None:
    street = SyntheticDataset(frames=1, rings=4, columns=16)
    with pytest.raises(DatasetError, match="its own rig"):
        open_dataset("synthetic", rig=street.rig)
