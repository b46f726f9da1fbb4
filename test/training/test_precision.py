"""Half precision only where the processor has it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from multimodal_perception.training import precision


@pytest.mark.parametrize(
    ("told", "has"),
    [({"avx512_bf16": True}, True), ({"avx2": True, "amx_bf16": False}, False), ({}, False)],
)
def test_a_cpu_without_bfloat16_computes_in_float32(
    told: dict[str, bool], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    precision.cpu_has_bfloat16.cache_clear()
    try:
        with precision.mixed_precision("cpu"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
    finally:
        precision.cpu_has_bfloat16.cache_clear()
    assert product.dtype == (torch.bfloat16 if has else torch.float32)


@pytest.mark.parametrize("wanted", ["fp32", "fp16"])
def test_cpus_have_no_half_precision_of_other_kinds(wanted: precision.Precision) -> None:
    assert isinstance(precision.mixed_precision("cpu", wanted), nullcontext)
