"""Writes evaluation results as JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import UserError


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result; NaN and infinity become null. Raises UserError if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_to_json_value(result), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _to_json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _to_json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json_value(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
