"""Status of an inference engine for /diagnostics."""

from __future__ import annotations

from typing import Any

from multimodal_perception.perception import Level, StageStatus


def engine_status(engine: Any, name: str = "") -> StageStatus:
    """Status of the engine of one network: WARN while it is degraded, with the reason.

    engine: usually a runtime.open_model.FallbackEngine. Other objects with the Engine interface are
    accepted; they are reported as OK. name: of the status; default: the engine's model name.
    """
    name = name or str(getattr(engine, "model", "")) or "inference"
    reason = str(getattr(engine, "degraded_reason", ""))
    diagnostics = getattr(engine, "diagnostics", None)
    values = {"model": name, **(diagnostics() if callable(diagnostics) else {})}
    return StageStatus(name, Level.WARN if reason else Level.OK, reason or "ok", values)
