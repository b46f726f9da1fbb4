"""Losses of the segmentation network, and the weights of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from multimodal_perception.segmentation.classes import IGNORED, SEGMENTATION_CLASSES
from multimodal_perception.training.segmentation.dataset import View

CLASSES = len(SEGMENTATION_CLASSES)


def distillation_loss(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """KL divergence (Hinton et al. 2015) of the second half of the batch (student) from the first
    (teacher).

    logits: (2B, classes, h, w). labels: (2B, H, W). Pixels without a label are excluded. The loss has no
    gradient with respect to the teacher.
    """
    teacher, student = (logits / temperature).chunk(2)
    counts = F.interpolate((labels != IGNORED).float()[:, None], logits.shape[-2:])[
        : len(teacher), 0
    ]
    log_student = student.log_softmax(1)
    log_teacher = teacher.detach().log_softmax(1)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
    return temperature**2 * (divergence * counts).sum() / counts.sum().clamp_min(1.0)


def overlap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the mean soft Dice of the classes that occur in the batch (Milletari et al. 2016).

    logits: (B, classes, H, W). labels: (B, H, W); pixels without a label are excluded.
    """
    probability = logits.softmax(1)
    counts = labels != IGNORED
    truth = F.one_hot(torch.where(counts, labels, 0), logits.shape[1]).permute(0, 3, 1, 2)
    truth = truth * counts[:, None]
    probability = probability * counts[:, None]
    inside = (probability * truth).sum(dim=(0, 2, 3))
    total = probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = 2.0 * inside / total.clamp_min(1.0)
    return 1.0 - dice[present].mean() if bool(present.any()) else dice.sum() * 0.0


def class_weights(views: Sequence[View], exponent: float) -> Tensor:
    """Weight (classes,) float32 of each class: its fraction of the pixels to the power -exponent.

    The weights are scaled to the mean 1 over the pixels, and then limited to 8.
    """
    counts = np.zeros(256, np.int64)
    for view in views[:: max(len(views) // 200, 1)]:
        counts += np.bincount(view.labels.ravel(), minlength=256)
    fraction = np.maximum(counts[:CLASSES] / max(counts[:CLASSES].sum(), 1), 1e-4)
    weights = fraction**-exponent
    weights /= (weights * fraction).sum()
    return torch.from_numpy(np.minimum(weights, 8.0).astype(np.float32))
