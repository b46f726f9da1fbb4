"""Training of the large vehicle head on stored proposals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from multimodal_perception.detection.fusion.network_inputs import ImageViews
from multimodal_perception.training.checkpoint import read_weights, write_weights
from multimodal_perception.training.detector.dataset import (
    TrainingFrame,
)
from multimodal_perception.training.detector.large_vehicle_head import (
    jitter_proposals,
    train_large_vehicle_head,
)
from multimodal_perception.training.detector.train import (
    train_proposals,
    train_refinement,
)
from test.training.detector.tiny_samples import configured
from test.training.detector.tiny_samples import samples as samples
from test.training.event_files import read_scalars


def test_only_the_large_vehicle_head_is_trained(samples: Path, tmp_path: Path) -> None:
    train_proposals(configured("proposals", 2), samples, tmp_path / "p")
    first = tmp_path / "p" / "proposals.safetensors"
    weights = read_weights(first)
    weights["head.code.bias"][3:6] = torch.tensor(
        [8.0, 2.5, 3.0]
    ).log()  # all boxes have the size of a truck
    write_weights(weights, first)
    train_refinement(configured("refinement", 1), samples, tmp_path / "r", first)
    start = tmp_path / "r" / "refinement.safetensors"
    config = configured("large_vehicle_head", 150)
    loop = dataclasses.replace(config.loop, batch_size=64, save_every=1000)
    config = dataclasses.replace(config, loop=loop, views_per_frame=2)
    train_large_vehicle_head(config, samples, tmp_path / "m", first, [start])
    before, after = read_weights(start), read_weights(tmp_path / "m" / "refinement.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "head.large_vehicle_head.4.weight" in changed
    assert all(name.startswith("head.large_vehicle_head.") for name in changed)
    losses = read_scalars(tmp_path / "m", "loss/total")
    assert len(losses) == 150 and losses[-1] < 0.5 * losses[0]


def test_jitter_keeps_the_near_end_of_proposals() -> None:
    labels = np.array([0, 3, 2])
    boxes = np.array(
        [[5, 0, 1, 4, 2, 1.5, 0], [20, 1, 1.5, 12, 2.5, 3, 0], [-30, 9, 1.6, 7, 2.3, 3, 3.1]],
        np.float32,
    )
    proposed = boxes + 0.0
    proposed[1, [0, 3]] = 19.0, 10.0  # too short, but with the near end at 14 m as well
    proposed = np.concatenate([proposed, [[8] * 7]]).astype(np.float32)
    candidates = proposed, np.array([0.9, 0.8, 0.7, 0.6], np.float32), np.array([0, 2, 2, 4])
    nothing = np.zeros((0, 4), np.float32)
    frame = TrainingFrame(
        {}, nothing, boxes, labels, None, ImageViews([], [], (8, 8), (8, 8)), None
    )
    many = [jitter_proposals(frame, candidates, np.random.default_rng(k)) for k in range(50)]
    jittered, scores, classes = (np.concatenate(parts) for parts in zip(*many, strict=True))
    # Scores and labels are those of the proposals.
    assert set(classes) == {2} and set(scores) == {np.float32(0.8), np.float32(0.7)}
    bus = jittered[jittered[:, 0] > 0]
    near, far = bus[:, 0] - bus[:, 3] / 2, bus[:, 0] + bus[:, 3] / 2
    assert abs(near.mean() - 14.0) < 0.05 and 0.1 < near.std() < 0.2
    assert abs(np.median(far) - 24.0) < 0.2 and far.std() > 0.5
    truck = jittered[
        jittered[:, 0] < 0
    ]  # behind the vehicle, heading away: its rear is the near end
    assert abs((truck[:, 0] + truck[:, 3] / 2).mean() + 26.5) < 0.05
    for few in (labels[:1], labels[:0]):
        fewer = dataclasses.replace(frame, boxes=boxes[: len(few)], labels=few)
        assert [len(v) for v in jitter_proposals(fewer, candidates, np.random.default_rng(0))] == [
            0,
            0,
            0,
        ]
