from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.segmentation.classes import IGNORED
from multimodal_perception.training.segmentation.dataset import (
    Augmentation,
    Sampler,
    View,
    collate,
    read_drives,
    whole,
)


def view(rows: int = 120, columns: int = 200) -> View:
    """A person's patch that is red, hot, and labelled."""
    labels = np.zeros((rows, columns), np.uint8)
    labels[40:80, 150:180] = 3
    person = labels == 3
    visible = np.zeros((rows, columns, 3), np.uint8)
    visible[person, 0] = 255
    return View(visible, person.astype(np.float16), np.ones_like(labels), labels)


def test_images_and_labels_move_together() -> None:
    config = Augmentation(shift=0.0, light=0.0, heat=0.0, dark=0.0, own_view=0.0)
    sampler = Sampler([view()], [], (96, 96), config)
    batch = sampler.batch(24, np.random.default_rng(0))
    person = batch.labels == 3
    assert person.any(dim=2).any(dim=1).float().mean() > 0.5  # it is sought
    inside = batch.labels != IGNORED
    red, hot = batch.visible[:, 0] > 0.0, batch.other[:, 0] > 0.5
    assert (red == person)[inside].float().mean() > 0.985
    assert (hot == person)[inside].float().mean() > 0.985
    assert (batch.visible_mask[:, 0] > 0)[person].all()


def test_a_dark_night_takes_the_visible_image_alone() -> None:
    config = Augmentation(light=0.0, heat=0.0, own_view=0.0, dark=1.0)
    batch = Sampler([view()], [], (96, 96), config).batch(16, np.random.default_rng(0))
    person = batch.labels == 3
    red = batch.visible[:, 0][person]
    assert red.mean() < 0.6 and red.std() > 0.0  # it was 1
    assert batch.other[:, 0][person].mean() > 0.9
    assert (batch.visible_mask[:, 0] > 0)[person].all()


def test_outside_of_an_image_nothing_is_seen_or_scored() -> None:
    batch = collate([whole(view(), 192, 320)])
    assert batch.labels.shape == (1, 192, 320)
    assert (batch.labels[:, -1] == IGNORED).sum() == 0  # 120 of 200 fills 192 of 320
    batch = collate([whole(view(100, 200), 192, 320)])
    below = batch.labels[0, 162:]
    assert (below == IGNORED).all() and not batch.visible_mask[0, 0, 162:].any()
    assert not batch.other_mask[0, 0, 162:].any() and batch.visible_mask[0, 0, :158].all()


def test_the_same_step_draws_the_same() -> None:
    sampler = Sampler([view()], [], (64, 64), Augmentation())
    a, b, c = (sampler.batch(2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (a.visible == b.visible).all() and (a.other == b.other).all()
    assert not (a.visible == c.visible).all()


def test_a_file_that_is_no_drive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "thermal_0000.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(UserError, match=r"thermal_0000\.npz"):
        read_drives([path])
    np.savez(path, labels=np.zeros((1, 4, 4), np.uint8))
    with pytest.raises(UserError, match="no drive"):
        read_drives([path])
