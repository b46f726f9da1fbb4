"""In which precision the forward pass of a training is computed."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, Literal

import torch

log = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16", "fp16"]


def mixed_precision(device: str, wanted: Precision = "bf16") -> AbstractContextManager[Any]:
    """torch.autocast on "cpu" or "cuda", or nothing for fp32 and where a CPU cannot compute so.

    A CPU that lacks bfloat16 gets it from oneDNN all the same, some thirty times as slow as float32.
    """
    if wanted == "fp32" or (device == "cpu" and not (wanted == "bf16" and cpu_has_bfloat16())):
        return nullcontext()
    return torch.autocast(device, torch.bfloat16 if wanted == "bf16" else torch.float16)


@lru_cache(maxsize=1)
def cpu_has_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for bfloat16 (AVX-512, AMX, Arm)."""
    # Older releases of torch do not tell.
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    found = any(has is True for name, has in told.items() if name.endswith("bf16"))
    if not found:
        log.info("this CPU has no bfloat16: training computes in float32")
    return found
