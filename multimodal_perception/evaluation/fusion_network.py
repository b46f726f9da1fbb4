"""The image fusion network in torch, for images of any size.

The evaluation uses it because the exported ONNX model has one fixed image size.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard, load_card

if TYPE_CHECKING:
    from torch import Tensor

    from multimodal_perception.networks.moe_fusion import FusedOnly

Image = NDArray[np.float32]


class FusionNetwork:
    """Image fusion with the weights of a model card, for images of any size."""

    def __init__(self, model: str) -> None:
        """model: name of a shipped model, or the path of a card.

        Raises UserError if there is no such model or torch is not installed.
        """
        self._network = load_fusion_network(load_card(model))

    def fuse(self, visible: Image, thermal: Image) -> Image:
        """Fuse two images (H, W) float32 in [0, 1]."""
        import torch

        rows, columns = visible.shape
        with torch.inference_mode():
            fused = self._network(*_padded_tensors(visible, thermal))[0, 0].numpy()
        return fused[:rows, :columns]

    def projected_gradient_attack(
        self, visible: Image, thermal: Image, epsilon: float, steps: int, seed: int = 0
    ) -> tuple[Image, Image]:
        """Both images (H, W) perturbed by at most `epsilon` per pixel, see adversarial_attack."""
        import torch

        from multimodal_perception.evaluation.adversarial_attack import projected_gradient_attack

        rows, columns = visible.shape
        generator = torch.Generator().manual_seed(seed)
        first, second = _padded_tensors(visible, thermal)
        perturbed = projected_gradient_attack(
            self._network, first, second, epsilon, steps, generator
        )
        pixels = [image[0, 0].numpy()[:rows, :columns] for image in perturbed]
        return pixels[0], pixels[1]


def load_fusion_network(card: ModelCard) -> FusedOnly:
    """Build the network of a card and load its weights. Raises UserError."""
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise UserError(f"image fusion of any size needs torch and safetensors: {error}") from error
    if card.architecture != "moe_fusion":
        raise UserError(
            f"{card.source}: architecture: {card.architecture}; only moe_fusion is allowed"
        )
    network: FusedOnly = resolve(card, "build")(card.settings)
    try:
        network.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{card.source}: weights: {reason}") from error
    return network.eval().requires_grad_(False)


def _padded_tensors(*images: Image) -> Iterator[Tensor]:
    """Tensors (1, 1, H, W), padded to even H and W by repeating the last row and column."""
    import torch

    for image in images:
        pads = [(0, size % 2) for size in image.shape]
        yield torch.from_numpy(np.pad(image, pads, "edge"))[None, None]
