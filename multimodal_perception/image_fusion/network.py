"""Image fusion by the network for images of any size, by torch: what evaluation compares."""

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


class AnySizeFusion:
    """A model by its weights; its ONNX, which says the same, is of one size alone."""

    def __init__(self, model: str) -> None:
        """model: shipped one, or a card. Raises UserError without such a model or without torch."""
        self._network = load_network(load_card(model))

    def fuse(self, visible: Image, thermal: Image) -> Image:
        """Two images (H, W) float32 in [0, 1] to the fused one."""
        import torch

        rows, columns = visible.shape
        with torch.inference_mode():
            fused = self._network(*_even(visible, thermal))[0, 0].numpy()
        return fused[:rows, :columns]

    def attacked(
        self, visible: Image, thermal: Image, size: float, steps: int, seed: int = 0
    ) -> tuple[Image, Image]:
        """Both images as an attack of at most `size` a pixel changes them; see attack.attacked."""
        import torch

        from multimodal_perception.evaluation.adversarial_attack import attacked

        rows, columns = visible.shape
        generator = torch.Generator().manual_seed(seed)
        first, second = _even(visible, thermal)
        moved = attacked(self._network, first, second, size, steps, generator)
        pixels = [image[0, 0].numpy()[:rows, :columns] for image in moved]
        return pixels[0], pixels[1]


def load_network(card: ModelCard) -> FusedOnly:
    """The network of a card with its weights. Raises UserError."""
    try:
        from safetensors.torch import load
    except ImportError as error:
        raise UserError(f"image fusion of any size needs torch and safetensors: {error}") from error
    if card.architecture != "moe_fusion":
        raise UserError(f"{card.source}: architecture: {card.architecture}; moe_fusion is needed")
    network: FusedOnly = resolve(card, "build")(card.settings)
    try:
        network.load_state_dict(load(card.read_file("weights")))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{card.source}: weights: {reason}") from error
    return network.eval().requires_grad_(False)


def _even(*images: Image) -> Iterator[Tensor]:
    """Tensors (1, 1, H, W) with H and W even, the last row and column repeated."""
    import torch

    for image in images:
        pads = [(0, size % 2) for size in image.shape]
        yield torch.from_numpy(np.pad(image, pads, "edge"))[None, None]
