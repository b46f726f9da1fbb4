from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.training.segmentation.dataset import (
    Augmentation,
    CropDataset,
    View,
    collate,
    full_view,
    read_drives,
)


def view(rows: int = 120, columns: int = 200) -> View:
    """A view with a rectangular person that is red, hot and labelled."""
    labels = np.zeros((rows, columns), np.uint8)
    labels[40:80, 150:180] = 3
    person = labels == 3
    visible = np.zeros((rows, columns, 3), np.uint8)
    visible[person, 0] = 255
    return View(visible, person.astype(np.float16), np.ones_like(labels), labels)


def test_images_and_labels_stay_aligned() -> None:
    config = Augmentation(
        max_misalignment=0.0,
        exposure_variation=0.0,
        thermal_variation=0.0,
        night_fraction=0.0,
        thermal_view_fraction=0.0,
    )
    crops = CropDataset([view()], [], (96, 96), config)
    batch = collate([crops[k] for k in range(24)])
    person = batch.labels == 3
    assert person.any(dim=2).any(dim=1).float().mean() > 0.5  # by rare_class_fraction
    inside = batch.labels != IGNORED
    red, hot = batch.visible[:, 0] > 0.0, batch.thermal[:, 0] > 0.5
    assert (red == person)[inside].float().mean() > 0.985
    assert (hot == person)[inside].float().mean() > 0.985
    assert (batch.visible_mask[:, 0] > 0)[person].all()


def test_simulated_night_changes_the_visible_image_only() -> None:
    config = Augmentation(
        exposure_variation=0.0, thermal_variation=0.0, thermal_view_fraction=0.0, night_fraction=1.0
    )
    crops = CropDataset([view()], [], (96, 96), config)
    batch = collate([crops[k] for k in range(16)])
    person = batch.labels == 3
    red = batch.visible[:, 0][person]
    assert red.mean() < 0.6 and red.std() > 0.0  # it was 1 before
    assert batch.thermal[:, 0][person].mean() > 0.9
    assert (batch.visible_mask[:, 0] > 0)[person].all()


def test_padding_is_masked_out_and_has_no_label() -> None:
    batch = collate([full_view(view(), 192, 320)])
    assert batch.labels.shape == (1, 192, 320)
    assert (batch.labels[:, -1] == IGNORED).sum() == 0  # 120 of 200 fills 192 of 320
    batch = collate([full_view(view(100, 200), 192, 320)])
    below = batch.labels[0, 162:]
    assert (below == IGNORED).all() and not batch.visible_mask[0, 0, 162:].any()
    assert not batch.thermal_mask[0, 0, 162:].any() and batch.visible_mask[0, 0, :158].all()


def test_crop_depends_on_seed_epoch_and_index_only() -> None:
    crops, again = (CropDataset([view()], [], (64, 64), Augmentation(), 3) for _ in range(2))
    again[5]
    first, same, later = crops[1], again[1], crops[2]
    np.testing.assert_array_equal(first.thermal, same.thermal)
    assert not np.array_equal(first.thermal, later.thermal)
    again.epoch = 1
    assert not np.array_equal(first.thermal, again[1].thermal)


def test_unreadable_drive_file_is_named_in_the_error(tmp_path: Path) -> None:
    path = tmp_path / "thermal_0000.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"thermal_0000\.npz"):
        read_drives([path])
    np.savez(path, labels=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UserError, match="not a drive"):
        read_drives([path])
