"""An inference engine of the segmentation network with Monte Carlo dropout; it needs torch."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from multimodal_perception.configuration import UserError
from multimodal_perception.extras import import_package
from multimodal_perception.runtime.architectures import resolve
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.engine import Arrays, CheckedEngine, Engine


class MonteCarloBackend:
    """The card's network in torch on the CPU, see networks.monte_carlo_dropout."""

    name, device, precision = "torch, Monte Carlo dropout", "cpu", "fp32"

    def __init__(self, card: ModelCard, samples: int, rate: float) -> None:
        """Raises UserError for a card without weights or of another network."""
        import_package("torch")
        from safetensors.torch import load

        from multimodal_perception.networks.monte_carlo_dropout import MonteCarloDropout
        from multimodal_perception.networks.rgb_thermal_segmentation import RgbThermalSegmentation

        network: Any = resolve(card, "build")(card.settings)
        if card.weights is None or not isinstance(network, RgbThermalSegmentation):
            raise UserError(
                f"{card.source}: Monte Carlo dropout needs torch weights of a network for visible and "
                "thermal images (architecture rgb_thermal_segmentation)"
            )
        try:
            network.load_state_dict(card.to_module_names(load(card.read_file("weights"))))
        except (RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{card.source}: weights do not match the network: {error}") from error
        try:
            self._module = MonteCarloDropout(network, samples, rate).eval().requires_grad_(False)
        except ValueError as error:
            raise UserError(f"Monte Carlo dropout: {error}") from error

    def infer(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        """Run all passes on one image pair."""
        import torch

        with torch.inference_mode():
            logits = self._module(*(torch.from_numpy(array) for array in arrays.values()))
        return {"logits": logits.numpy()}


def monte_carlo_engine(card: ModelCard, samples: int, rate: float) -> Engine:
    """An engine whose output `logits` is the logarithm of the mean probability. Raises UserError.

    samples: passes of the decoder. rate: probability with which a channel is dropped.
    """
    return CheckedEngine(MonteCarloBackend(card, samples, rate), card.inputs, card.outputs)
