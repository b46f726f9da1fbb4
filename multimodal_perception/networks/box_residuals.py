"""Residuals with which the second stage changes boxes, and the far ends of large vehicles."""

from __future__ import annotations

import torch
from torch import Tensor

RESIDUALS = 8  # of a box, see apply_residuals
# Width and top of the face (the end of the proposal towards the sensor) are encoded by Gaussian radial
# basis functions with centres in these ranges, metres: differences of centimetres, which distinguish a
# bus of 9 m from one of 12 m, have no effect otherwise.
FACE_WIDTH_RANGE, FACE_TOP_RANGE, RBF_CENTRES = (1.5, 2.7), (1.3, 3.9), 41
# The far end of a vehicle longer than CAR_LENGTH is shifted by one of END_BINS values up to this,
# metres.
MAX_END_SHIFT, END_BINS = 4.0, 33
# Sharpens the distribution over the shifts, so that their mean is close to the most likely one: with two
# likely lengths, the length between them is wrong.
END_SOFTMAX_SCALE = 3.0


def far_end_sign(towards: Tensor) -> Tensor:
    """1 if the far end of a box is its front, else -1.

    towards: cosine of the direction to the sensor in the box's frame.
    """
    return torch.where(towards < 0.0, 1.0, -1.0).to(towards.dtype)


def end_shifts(like: Tensor) -> Tensor:
    """The shifts (END_BINS,) of the far end, metres, with the device and dtype of `like`."""
    return torch.linspace(
        -MAX_END_SHIFT, MAX_END_SHIFT, END_BINS, device=like.device, dtype=like.dtype
    )


def expected_shift(end_logits: Tensor) -> Tensor:
    """Shift (..., 1) in metres from logits (..., END_BINS): their mean, sharpened towards the best."""
    probabilities = (END_SOFTMAX_SCALE * end_logits).softmax(-1)
    return (probabilities * end_shifts(end_logits)).sum(-1, keepdim=True)


def shift_far_end(residuals: Tensor, shift: Tensor, length: Tensor, profile: Tensor) -> Tensor:
    """Move the far end of boxes and keep the near end.

    residuals (..., 8) of proposals with length (..., 1); shift (..., 1), metres, positive lengthens.
    """
    x, yz, log_length, rest = residuals.split((1, 2, 1, 4), -1)
    old_length = length * log_length.clamp(-1.0, 1.0).exp()
    growth = (shift / old_length).clamp(min=-0.5)
    x = x + far_end_sign(profile[..., :1]) * growth * old_length / (2.0 * length)
    # Written so that a shift of zero changes nothing, not even by rounding.
    return torch.cat([x, yz, log_length + (1.0 + growth).log(), rest], -1)


def encode_face(face: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Width (..., 1) of a face (..., FACE_FEATURES), and radial basis functions of its width and top."""
    width, top = face[..., 3:4] - face[..., 2:3], face[..., 4:5]
    encoded = []
    for value, (low, high) in ((width, FACE_WIDTH_RANGE), (top, FACE_TOP_RANGE)):
        step = (high - low) / (RBF_CENTRES - 1)
        centres = torch.linspace(low, high, RBF_CENTRES, device=face.device)
        encoded.append((-(((value - centres) / step) ** 2)).exp())
    return width, encoded[0], encoded[1]


def apply_residuals(proposals: Tensor, residuals: Tensor) -> Tensor:
    """Boxes (..., 7) from proposals (..., 7) and residuals (..., 8) in each proposal's frame.

    Residuals: x, y, z as fractions of the size, log size (3), sine and cosine - 1 of the yaw difference.
    """
    yaw = proposals[..., 6]
    c, s = yaw.cos(), yaw.sin()
    size = proposals[..., 3:6]
    x, y = residuals[..., 0] * size[..., 0], residuals[..., 1] * size[..., 1]
    centre = torch.stack(
        [
            proposals[..., 0] + c * x - s * y,
            proposals[..., 1] + s * x + c * y,
            proposals[..., 2] + residuals[..., 2] * size[..., 2],
        ],
        -1,
    )
    rotation = torch.atan2(residuals[..., 6], 1.0 + residuals[..., 7])
    size = size * residuals[..., 3:6].clamp(-1.0, 1.0).exp()
    return torch.cat([centre, size, (yaw + rotation)[..., None]], -1)
