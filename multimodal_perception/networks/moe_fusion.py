"""MoE-Fusion (Cao et al. 2023): fuses a visible and a thermal image by a mixture of experts.

Both images are encoded, and an attention map separates foreground and background. Four local experts
(two for the visible features, two for the thermal ones) are gated for the foreground and for the
background. Four global experts decode the merged features, gated for the image.

Differences from the paper: the gates read pooled features, so that any even image size is possible (the
published ones need 640x480). The attention map comes from a small head instead of two trained detectors;
it is trained on foreground masks from the simulator, or on thermal saliency without masks. All
convolutions work at half resolution on blocks of 2x2 pixels. The output is a blend of both images plus
predicted detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from multimodal_perception.configuration import UserError

CHANNELS = 16
BLOCK = 2  # block size of pixel unshuffling
EXPERTS = 4
TOP_K = 2  # experts that a gate selects


class Fusion(NamedTuple):
    """Outputs of MoEFusion.

    fused: (B, 1, H, W), about 0 to 1. attention: foreground logits (B, 1, H/2, W/2). balance: (), loss
    of the gates.
    """

    fused: Tensor
    attention: Tensor
    balance: Tensor


class MoEFusion(nn.Module):
    """Fuses two images (B, 1, H, W) in [0, 1] with even H and W."""

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.channels = channels
        c, pixels = channels, BLOCK**2
        self.visible = Encoder(c)
        self.thermal = Encoder(c)
        self.attention = nn.Sequential(
            nn.Conv2d(2 * c, c, 1), nn.ReLU(), nn.Conv2d(c, 1, 3, padding=1)
        )
        self.local_gate = Gate(2 * c)
        self.local_experts = nn.ModuleList(expert(c) for _ in range(EXPERTS))
        self.merge = nn.Sequential(nn.Conv2d(3 * c, c, 1), nn.ReLU())
        self.global_gate = Gate(c)
        self.global_experts = nn.ModuleList(expert(c) for _ in range(EXPERTS))
        self.decoder = nn.Sequential(
            nn.Conv2d(3 * c, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, 2 * pixels, 3, padding=1),
            nn.PixelShuffle(BLOCK),
        )

    def forward(self, visible: Tensor, thermal: Tensor) -> Fusion:
        shallow_v, deep_v = self.visible(visible)  # (B, C, H/2, W/2) each
        shallow_t, deep_t = self.thermal(thermal)
        both = torch.cat([deep_v, deep_t], 1)  # (B, 2C, H/2, W/2)
        attention = self.attention(both)  # (B, 1, H/2, W/2)
        local, local_balance = self._local(deep_v, deep_t, both, torch.sigmoid(attention))
        merged = self.merge(torch.cat([both, local], 1))  # (B, C, H/2, W/2)
        decoded, global_balance = self._global(merged)
        output = self.decoder(torch.cat([decoded, shallow_v, shallow_t], 1))  # (B, 2, H, W)
        blend, detail = output.chunk(2, 1)
        blend = torch.sigmoid(blend)
        fused = blend * visible + (1.0 - blend) * thermal + 0.5 * torch.tanh(detail)
        return Fusion(fused, attention, local_balance + global_balance)

    def _local(
        self, deep_v: Tensor, deep_t: Tensor, both: Tensor, foreground: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Local experts (0 and 1 for visible, 2 and 3 for thermal), gated per region; and balance."""
        regions = (foreground, 1.0 - foreground)
        pooled = [
            (both * p).mean((2, 3)) / (p.mean((2, 3)) + 1e-3)  # (B, 2C)
            for p in regions
        ]
        gates = [self.local_gate(p) for p in pooled]  # weights (B, 4), balance
        local = torch.zeros_like(deep_v)
        for k, local_expert in enumerate(self.local_experts):
            weight = sum(
                g[0][:, k, None, None, None] * p for g, p in zip(gates, regions, strict=True)
            )
            local = local + weight * local_expert(deep_v if k < EXPERTS // 2 else deep_t)
        return local, gates[0][1] + gates[1][1]

    def _global(self, merged: Tensor) -> tuple[Tensor, Tensor]:
        """Global experts, gated for the image, with a residual connection; and the balance."""
        weights, balance = self.global_gate(merged.mean((2, 3)))
        decoded = merged
        for k, global_expert in enumerate(self.global_experts):
            decoded = decoded + weights[:, k, None, None, None] * global_expert(merged)
        return decoded, balance


class Encoder(nn.Module):
    """One image (B, 1, H, W) -> shallow and deep features, (B, C, H/2, W/2) each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.PixelUnshuffle(BLOCK)
        self.stem = nn.Conv2d(BLOCK**2, channels, 3, padding=1)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shallow = functional.relu(self.stem(self.blocks(image)))
        residual = self.second(functional.relu(self.first(shallow)))
        return shallow, functional.relu(shallow + residual)


class Gate(nn.Module):
    """Noisy top-k gating (Shazeer et al. 2017): weights (B, 4) of the experts, and the balance loss.

    pooled features (B, F) -> weights, zero except for the TOP_K selected experts. In training, noise is
    added to the scores (eq. 3 to 5). The balance loss is 0.01 CV^2(importance) + 0.02 CV^2(load) over
    the batch (eq. 6 to 11), and 0 in evaluation.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, EXPERTS)
        self.noise = nn.Linear(features, EXPERTS)
        nn.init.zeros_(self.noise.weight)
        nn.init.zeros_(self.noise.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.score(pooled)
        if not self.training:
            return _top_k_softmax(clean), clean.new_zeros(())
        std = functional.softplus(self.noise(pooled)) + 1e-2
        noisy = clean + std * torch.randn_like(clean)
        weights = _top_k_softmax(noisy)
        load = _load(clean, noisy, std)
        return weights, 0.01 * _squared_cv(weights.sum(0)) + 0.02 * _squared_cv(load)


def expert(channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, C -> C/2 -> C channels."""
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, padding=1),
        nn.ReLU(),
    )


def _top_k_softmax(scores: Tensor) -> Tensor:
    """Softmax over the TOP_K highest scores of each row, zero for the others."""
    lowest = torch.topk(scores, TOP_K, dim=1).values[:, -1:]
    return torch.softmax(torch.where(scores >= lowest, scores, scores - 1e4), 1)


def _load(clean: Tensor, noisy: Tensor, std: Tensor) -> Tensor:
    """Smooth estimate (4,) of the rows per expert: P(selected again if its noise is drawn anew)."""
    top = torch.topk(noisy, TOP_K + 1, dim=1).values
    selected = noisy > top[:, TOP_K:]
    # The k-th highest score among the other experts: the threshold for being selected.
    threshold = torch.where(selected, top[:, TOP_K:], top[:, TOP_K - 1 : TOP_K])
    return (0.5 * (1.0 + torch.erf((clean - threshold) / (std * 2**0.5)))).sum(0)


def _squared_cv(values: Tensor) -> Tensor:
    """Squared coefficient of variation."""
    return values.var(unbiased=False) / (values.mean() ** 2 + 1e-8)


class FusedOnly(nn.Module):
    """The exported network: only the fused image (B, 1, H, W), clamped to [0, 1]."""

    def __init__(self, network: MoEFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, visible: Tensor, thermal: Tensor) -> Tensor:
        return self.network(visible, thermal).fused.clamp(0.0, 1.0)


def build(settings: Mapping[str, Any]) -> FusedOnly:
    """Build the network from a card's settings (channels), without weights. Raises UserError."""
    unknown = sorted(set(settings) - {"channels"})
    channels = settings.get("channels", CHANNELS)
    if unknown or not isinstance(channels, int) or not 2 <= channels <= 256:
        raise UserError(f"moe_fusion: settings: allowed: channels, 2 to 256; got {dict(settings)}")
    return FusedOnly(MoEFusion(channels))
