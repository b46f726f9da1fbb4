"""Mixed precision only on processors with the instructions."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from multimodal_perception.training import precision


@pytest.mark.parametrize(
    ("capabilities", "available"),
    [({"avx512_bf16": True}, True), ({"avx2": True, "amx_bf16": False}, False), ({}, False)],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    capabilities: dict[str, bool], available: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    precision.cpu_has_bfloat16.cache_clear()
    try:
        with precision.mixed_precision("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    finally:
        precision.cpu_has_bfloat16.cache_clear()
    assert product.dtype == (torch.bfloat16 if available else torch.float32)


@pytest.mark.parametrize("wanted", ["fp32", "fp16"])
def test_cpus_use_no_other_reduced_precision(wanted: precision.Precision) -> None:
    assert isinstance(precision.mixed_precision("cpu", wanted), nullcontext)
