"""MoE-Fusion (Cao et al. 2023): a mixture of local and of global experts joins visible and thermal.

Two streams are encoded; an attention map parts them into foreground and background; four local
experts (two read the visible stream, two the thermal one) are gated for each part, four global
experts that decode are gated for the whole image. The gates read pooled features, so any even size
goes (the published ones are tied to 640x480). The published attention maps come from two trained
detectors; here a small head makes one, trained on foreground masks where a simulator knows them
and on thermal saliency where none are known. All convolutions work at half resolution, on blocks of
2x2 pixels; what they paint is a blend of both images and detail on top of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from multimodal_perception.configuration import UserError

CHANNELS = 16
BLOCK = 2  # pixels a side that become channels
EXPERTS = 4
CHOSEN = 2


class Fusion(NamedTuple):
    """fused: (B, 1, H, W) in [0, 1]. attention: foreground logits (B, 1, H/2, W/2). balance: ()."""

    fused: Tensor
    attention: Tensor
    balance: Tensor


class MoEFusion(nn.Module):
    """Images (B, 1, H, W) in [0, 1], H and W even, to the fused image."""

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
        self.join = nn.Sequential(nn.Conv2d(3 * c, c, 1), nn.ReLU())
        self.global_gate = Gate(c)
        self.global_experts = nn.ModuleList(expert(c) for _ in range(EXPERTS))
        self.paint = nn.Sequential(
            nn.Conv2d(3 * c, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, 2 * pixels, 3, padding=1),
            nn.PixelShuffle(BLOCK),
        )

    def forward(self, visible: Tensor, thermal: Tensor) -> Fusion:
        shallow_v, deep_v = self.visible(visible)  # (B, C, H/2, W/2) each
        shallow_i, deep_i = self.thermal(thermal)
        both = torch.cat([deep_v, deep_i], 1)  # (B, 2C, H/2, W/2)
        attention = self.attention(both)  # (B, 1, H/2, W/2)
        local, local_balance = self._local(deep_v, deep_i, both, torch.sigmoid(attention))
        joined = self.join(torch.cat([both, local], 1))
        decoded, global_balance = self._global(joined)
        painted = self.paint(torch.cat([decoded, shallow_v, shallow_i], 1))  # (B, 2, H, W)
        share, detail = painted.chunk(2, 1)
        share = torch.sigmoid(share)
        fused = share * visible + (1.0 - share) * thermal + 0.5 * torch.tanh(detail)
        return Fusion(fused, attention, local_balance + global_balance)

    def _local(
        self, deep_v: Tensor, deep_i: Tensor, both: Tensor, foreground: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts 0 and 1 on the visible stream, 2 and 3 on the thermal one, gated for each part."""
        parts = (foreground, 1.0 - foreground)
        pooled = [
            (both * p).mean((2, 3)) / (p.mean((2, 3)) + 1e-3)  # (B, 2C)
            for p in parts
        ]
        gates = [self.local_gate(p) for p in pooled]  # weights (B, 4), balance
        local = torch.zeros_like(deep_v)
        for k, one in enumerate(self.local_experts):
            weight = sum(
                g[0][:, k, None, None, None] * p for g, p in zip(gates, parts, strict=True)
            )
            local = local + weight * one(deep_v if k < EXPERTS // 2 else deep_i)
        return local, gates[0][1] + gates[1][1]

    def _global(self, joined: Tensor) -> tuple[Tensor, Tensor]:
        weights, balance = self.global_gate(joined.mean((2, 3)))
        decoded = joined
        for k, one in enumerate(self.global_experts):
            decoded = decoded + weights[:, k, None, None, None] * one(joined)
        return decoded, balance


class Encoder(nn.Module):
    """One image (B, 1, H, W) to shallow and deep features (B, C, H/2, W/2) each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.blocks = nn.PixelUnshuffle(BLOCK)
        self.stem = nn.Conv2d(BLOCK**2, channels, 3, padding=1)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        shallow = functional.relu(self.stem(self.blocks(image)))
        deeper = self.second(functional.relu(self.first(shallow)))
        return shallow, functional.relu(shallow + deeper)


class Gate(nn.Module):
    """Pooled features (B, F) to the weights (B, 4) of two chosen experts, and how unbalanced they are.

    While training, noise decides between experts that are close (Shazeer et al. 2017, eq. 3 to 5). The
    balance is 0.01 CV^2(importance) + 0.02 CV^2(load) over the batch (their eq. 6 to 11).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, EXPERTS)
        self.spread = nn.Linear(features, EXPERTS)
        nn.init.zeros_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        clean = self.score(pooled)
        if not self.training:
            return _top(clean), clean.new_zeros(())
        spread = functional.softplus(self.spread(pooled)) + 1e-2
        noisy = clean + spread * torch.randn_like(clean)
        weights = _top(noisy)
        load = _load(clean, noisy, spread)
        return weights, 0.01 * _variation(weights.sum(0)) + 0.02 * _variation(load)


def expert(channels: int) -> nn.Sequential:
    """C to C/2 to C, 3x3 each."""
    return nn.Sequential(
        nn.Conv2d(channels, channels // 2, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, padding=1),
        nn.ReLU(),
    )


def _top(scores: Tensor) -> Tensor:
    """Softmax over the two highest of each row, zero for the others."""
    least = torch.topk(scores, CHOSEN, dim=1).values[:, -1:]
    return torch.softmax(torch.where(scores >= least, scores, scores - 1e4), 1)


def _load(clean: Tensor, noisy: Tensor, spread: Tensor) -> Tensor:
    """How many rows each expert would get, smoothly (4,): P that new noise keeps it among the chosen."""
    top = torch.topk(noisy, CHOSEN + 1, dim=1).values
    chosen = noisy > top[:, CHOSEN:]
    # An expert that is in has to beat the first one out; one that is out, the last one in.
    bar = torch.where(chosen, top[:, CHOSEN:], top[:, CHOSEN - 1 : CHOSEN])
    return (0.5 * (1.0 + torch.erf((clean - bar) / (spread * 2**0.5)))).sum(0)


def _variation(amounts: Tensor) -> Tensor:
    """Squared coefficient of variation."""
    return amounts.var(unbiased=False) / (amounts.mean() ** 2 + 1e-8)


class FusedOnly(nn.Module):
    """What runs on a vehicle: the fused image (B, 1, H, W) alone, in [0, 1]."""

    def __init__(self, network: MoEFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, visible: Tensor, thermal: Tensor) -> Tensor:
        return self.network(visible, thermal).fused.clamp(0.0, 1.0)


def build(settings: Mapping[str, Any]) -> FusedOnly:
    """The network of a card's settings (channels). Raises UserError."""
    unknown = sorted(set(settings) - {"channels"})
    channels = settings.get("channels", CHANNELS)
    if unknown or not isinstance(channels, int) or not 2 <= channels <= 256:
        raise UserError(f"moe_fusion: settings: allowed: channels, 2 to 256; got {dict(settings)}")
    return FusedOnly(MoEFusion(channels))
