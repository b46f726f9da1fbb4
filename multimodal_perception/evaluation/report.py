"""Results as JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from multimodal_perception.configuration import UserError


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result; what has no value (NaN) is null. Raises UserError when it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_plain(result), indent=2, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
