"""TwinLiteNet (Che et al. 2023): drivable area and lane lines of one road image.

An ESPNet encoder (Mehta et al. 2018) to stride 8, dual attention over positions and channels (Fu et al.
2019), and two decoders of transposed convolutions. `load_published` loads the published checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multimodal_perception.configuration import UserError
from multimodal_perception.networks import winograd
from multimodal_perception.runtime.card import ModelCard, TensorSpec

DILATIONS = (1, 2, 4, 8, 16)
QUERY_CHUNKS = 10
SIZE = (360, 640)  # rows and columns of the published model's input
CLASSES = ("background", "drivable", "lane")


class TwinLiteNet(nn.Module):
    """RGB (B, 3, H, W) in [0, 1], H and W multiples of 8, to logits of drivable area and lane lines.

    Both are (B, 2, H, W): channel 0 for background, channel 1 for the class.
    """

    def __init__(self) -> None:
        super().__init__()
        self.downsample = nn.AvgPool2d(3, stride=2, padding=1)
        self.stem = ConvUnit(3, 16, 3, stride=2)
        self.mix1 = ConvUnit(16 + 3, 19, 3)
        self.down1 = DilatedPyramid(19, 64, down=True)
        self.blocks1 = nn.ModuleList(DilatedPyramid(64, 64) for _ in range(2))
        self.mix2 = WinogradUnit(64 + 64 + 3, 131, 3)
        self.down2 = DilatedPyramid(131, 128, down=True)
        self.blocks2 = nn.ModuleList(DilatedPyramid(128, 128) for _ in range(3))
        self.mix3 = ConvUnit(128 + 128, 32, 3)
        self.position_attention = PositionAttention(32)
        self.position_conv = ConvUnit(32, 32, 3)
        self.channel_attention = ChannelAttention()
        self.channel_conv = ConvUnit(32, 32, 3)
        self.merge = ConvUnit(32, 32, 1)
        self.drivable = nn.Sequential(UpUnit(32, 16), UpUnit(16, 8), UpUnit(8, 2))
        self.lane = nn.Sequential(UpUnit(32, 16), UpUnit(16, 8), UpUnit(8, 2))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        half = self.downsample(image)  # (B, 3, H/2, W/2)
        quarter = self.downsample(half)  # (B, 3, H/4, W/4)
        x = self.mix1(torch.cat([self.stem(image), half], 1))  # (B, 19, H/2, W/2)
        first = x = self.down1(x)  # (B, 64, H/4, W/4)
        for block in self.blocks1:
            x = block(x)
        x = self.mix2(torch.cat([x, first, quarter], 1))  # (B, 131, H/4, W/4)
        first = x = self.down2(x)  # (B, 128, H/8, W/8)
        for block in self.blocks2:
            x = block(x)
        x = self.mix3(torch.cat([first, x], 1))  # (B, 32, H/8, W/8)
        position = self.position_conv(self.position_attention(x))
        x = self.merge(position + self.channel_conv(self.channel_attention(x)))
        return self.drivable(x), self.lane(x)  # (B, 2, H, W) each


class ConvUnit(nn.Module):
    """Convolution, batch normalisation, PReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class WinogradUnit(ConvUnit):
    """A ConvUnit that uses winograd_conv3x3 for inference if the height is a multiple of its tile.

    It is used for the convolution that has half of the network's multiplications.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training or x.shape[2] % winograd.TILE:
            return super().forward(x)
        scale, shift = scale_and_shift(self.norm)
        weight = self.conv.weight * scale[:, None, None, None]
        return self.act(winograd.winograd_conv3x3(x, weight, shift))


class PReLU(nn.PReLU):
    """PReLU from elementary operators, because ONNX Runtime's PRelu takes ten times as long.

    In evaluation it is a maximum if no slope is above 1; otherwise, and in training, a sum of products.
    """

    use_maximum = False

    def forward(self, x: Tensor) -> Tensor:
        slope = self.weight[:, None, None]
        if self.use_maximum:
            return torch.maximum(x, slope * x)
        return slope * x + (1.0 - slope) * torch.relu(x)

    def train(self, mode: bool = True) -> PReLU:
        self.use_maximum = not mode and bool((self.weight <= 1.0).all())
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.use_maximum = False  # the next eval() checks the new slopes


class UpUnit(nn.Module):
    """Transposed convolution that doubles the size, batch normalisation, PReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.act(self.norm(self.conv(x)))
        # ONNX Runtime folds batch normalisation into convolutions, but not into transposed ones.
        scale, shift = scale_and_shift(self.norm)
        return self.act(F.conv_transpose2d(x, self.conv.weight * scale[:, None, None], shift, 2))


def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) that are equivalent to a batch normalisation in inference."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


class DilatedPyramid(nn.Module):
    """ESP module: 1x1 reduction, convolutions at five dilations, hierarchical sums, residual.

    down: the reduction has stride 2, and there is no residual.
    """

    def __init__(self, inputs: int, outputs: int, down: bool = False) -> None:
        super().__init__()
        width = outputs // len(DILATIONS)
        first = outputs - (len(DILATIONS) - 1) * width
        self.residual = not down
        kernel, stride = (3, 2) if down else (1, 1)
        self.reduce = nn.Conv2d(inputs, width, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, first if d == 1 else width, 3, padding=d, dilation=d, bias=False)
            for d in DILATIONS
        )
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        sums = [others[0]]
        for other in others[1:]:
            sums.append(sums[-1] + other)  # hierarchical sums remove the gridding of dilation
        merged = torch.cat([first, *sums], 1)
        return self.act(self.norm(x + merged if self.residual else merged))


class PositionAttention(nn.Module):
    """Attention of each position to all positions (Fu et al. 2019, eq. 1 and 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (conv(x).flatten(2) for conv in (self.query, self.key, self.value))
        value = value.transpose(1, 2)  # (B, N, C), N = H * W
        # In chunks of the queries: N x N weights have 52 MB at 640x360, more than a CPU cache.
        parts = [
            torch.softmax(chunk.transpose(1, 2) @ key, -1) @ value
            for chunk in query.chunk(QUERY_CHUNKS, 2)
        ]
        return self.gamma * torch.cat(parts, 1).transpose(1, 2).reshape(x.shape) + x


class ChannelAttention(nn.Module):
    """Attention between channels (Fu et al. 2019, eq. 3, with the energy negated)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        energy = flat @ flat.transpose(1, 2)  # (B, C, C)
        attention = torch.softmax(energy.amax(-1, keepdim=True) - energy, -1)
        return self.gamma * (attention @ flat).reshape(x.shape) + x


def build(settings: Mapping[str, Any]) -> TwinLiteNet:
    """Build the network; its card has no settings. Raises UserError."""
    if settings:
        raise UserError(f"twinlitenet: settings: no keys are allowed, got {', '.join(settings)}")
    return TwinLiteNet()


def card() -> ModelCard:
    """Return the card of an imported model, without its files."""
    logits = TensorSpec((1, 2, *SIZE))
    return ModelCard(
        "twinlitenet",
        "twinlitenet",
        {"image": TensorSpec((1, 3, *SIZE))},
        {"drivable": logits, "lane": logits},
        classes=CLASSES,
        normalisation={"image": {"scale": 255.0, "order": "rgb"}},
        licence="MIT (weights of Che et al. 2023, trained on BDD100K)",
        task="Predicts drivable area and lane markings in a camera image.",
        notes="Published weights, imported. Outputs: channel 0 background, channel 1 the class.",
    )


# Regular expressions for published parameter names (without the prefix "module." of data-parallel
# training), and their replacements, applied in order.
NAME_REPLACEMENTS = (
    (r"^encoder\.level1\.", "stem."),
    (r"^encoder\.b([123])\.", r"mix\1."),
    (r"^encoder\.level2_0\.", "down1."),
    (r"^encoder\.level3_0\.", "down2."),
    (r"^encoder\.level2\.", "blocks1."),
    (r"^encoder\.level3\.", "blocks2."),
    (r"^encoder\.sa\.", "position_attention."),
    (r"^encoder\.sc\.", "channel_attention."),
    (r"^encoder\.conv_sa\.", "position_conv."),
    (r"^encoder\.conv_sc\.", "channel_conv."),
    (r"^encoder\.classifier\.", "merge."),
    (r"^up_1_1\.", "drivable.0."),
    (r"^up_2_1\.", "drivable.1."),
    (r"^classifier_1\.", "drivable.2."),
    (r"^up_1_2\.", "lane.0."),
    (r"^up_2_2\.", "lane.1."),
    (r"^classifier_2\.", "lane.2."),
    (r"\.deconv\.", ".conv."),
    (r"\.(query|key|value)_conv\.", r".\1."),
    (r"\.c1\.conv\.", ".reduce."),
    (r"\.d1\.conv\.", ".branches.0."),
    (r"\.d2\.conv\.", ".branches.1."),
    (r"\.d4\.conv\.", ".branches.2."),
    (r"\.d8\.conv\.", ".branches.3."),
    (r"\.d16\.conv\.", ".branches.4."),
    (r"\.bn\.act\.", ".act."),
    (r"(\.bn)+\.", ".norm."),
)


def load_published(state: Mapping[str, Any], source: str) -> TwinLiteNet:
    """Build the network with the published weights.

    state: the checkpoint's state dict. source: its name in errors. Raises UserError if names or shapes
    do not match the network's, or if values are not finite.
    """
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{source}: not a state dict of tensors")
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = module_name(str(key))
        if name in renamed:
            raise UserError(f"{source}: {key}: duplicate tensor for {name}")
        renamed[name] = value
    network = TwinLiteNet()
    expected = network.state_dict()
    missing = sorted(set(expected) - set(renamed))
    unknown = sorted(set(renamed) - set(expected))
    shapes = [k for k in expected if k in renamed and expected[k].shape != renamed[k].shape]
    if missing or unknown or shapes:
        faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        text = "; ".join(f"{fault}: {', '.join(k[:3])}" for fault, k in faults.items() if k)
        raise UserError(f"{source}: not TwinLiteNet's published weights ({text})")
    if not all(bool(torch.isfinite(v).all()) for v in renamed.values()):
        raise UserError(f"{source}: some weights are not finite")
    network.load_state_dict(renamed)
    return network.eval()


def module_name(published: str) -> str:
    """Translate a published parameter name to this module's name."""
    name = published.removeprefix("module.")
    for pattern, replacement in NAME_REPLACEMENTS:
        name = re.sub(pattern, replacement, name)
    return name
