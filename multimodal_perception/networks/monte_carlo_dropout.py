"""Monte Carlo dropout of a segmentation network whose decoder was trained without dropout.

The mean probability of several passes of the decoder, in each of which random channels of the fused
maps are dropped (Gal and Ghahramani 2016; whole channels as in Tompson et al. 2015; dropout that is
added after the training as in Ledda et al. 2023). The passes share the backbones. The dropped channels
are drawn once, so that equal images give equal results, as with the fixed masks of Masksembles (Durasov
et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from multimodal_perception.networks.rgb_thermal_segmentation import (
    FUSED_CHANNELS,
    RgbThermalSegmentation,
)

# Smallest probability whose logarithm is computed; smaller ones are set to it.
SMALLEST = 1e-9


class MonteCarloDropout(nn.Module):
    """A network with the same inputs and output, whose probabilities are means of `samples` passes."""

    def __init__(
        self, network: RgbThermalSegmentation, samples: int, rate: float, seed: int = 0
    ) -> None:
        """Draw the dropped channels of each pass.

        samples: number of passes, at least 1. rate: probability with which a channel is dropped, at
        least 0, below 1. seed: of the dropped channels. Raises ValueError.
        """
        super().__init__()
        if samples < 1 or not 0.0 <= rate < 1.0:
            raise ValueError(f"samples >= 1 and 0 <= rate < 1 are allowed; got {samples}, {rate}")
        self.network, self.samples = network, samples
        random = torch.Generator().manual_seed(seed)
        for k, channels in enumerate(FUSED_CHANNELS):
            kept = torch.rand(samples, 1, channels, 1, 1, generator=random) >= rate
            # Kept channels are scaled, so that the expectation of each channel stays the same.
            self.register_buffer(f"scale_{k}", kept.float() / (1.0 - rate))

    def forward(
        self, visible: Tensor, thermal: Tensor, visible_mask: Tensor, thermal_mask: Tensor
    ) -> Tensor:
        """Logarithm (B, classes, H/2, W/2) float32 of the mean probability.

        The arguments are those of RgbThermalSegmentation.forward.
        """
        maps, stems = self.network.encode(visible, thermal, visible_mask, thermal_mask)
        total = torch.zeros(())
        for n in range(self.samples):
            dropped = [m * self.get_buffer(f"scale_{k}")[n] for k, m in enumerate(maps)]
            total = total + self.network.decoder(dropped, stems).softmax(dim=1)
        return (total / self.samples).clamp_min(SMALLEST).log()
