"""Percentiles of measured latencies."""

from __future__ import annotations

import math

import pytest

from multimodal_perception.latency import latency_percentiles


def test_percentiles_of_known_values() -> None:
    result = latency_percentiles(float(v) for v in range(101))
    assert result == {"p50": pytest.approx(50.0), "p95": pytest.approx(95.0)}


def test_percentiles_without_values_are_nan() -> None:
    assert all(math.isnan(v) for v in latency_percentiles([]).values())
