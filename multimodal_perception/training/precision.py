"""Mixed precision of the forward pass in training."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Literal

import torch

log = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16", "fp16"]


def mixed_precision(device: str, wanted: Precision = "bf16") -> AbstractContextManager[Any]:
    """torch.autocast on "cpu" or "cuda"; a null context for fp32 and where the CPU lacks the
    instructions.

    oneDNN emulates bfloat16 on a CPU that lacks it, about thirty times slower than float32.
    """
    if wanted == "fp32" or (device == "cpu" and not (wanted == "bf16" and cpu_has_bfloat16())):
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if wanted == "bf16" else torch.float16)


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Computes in float32 within mixed_precision. Inputs must be converted to float32."""
    return torch.autocast(device.type, enabled=False)


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for bfloat16 (AVX-512, AMX, Arm)."""
    # Older releases of torch have no get_capabilities.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    available = any(value is True for name, value in capabilities.items() if name.endswith("bf16"))
    if not available:
        log.info("this CPU has no bfloat16 instructions: training computes in float32")
    return available
