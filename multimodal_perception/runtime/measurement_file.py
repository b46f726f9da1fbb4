"""Results of measurements on disk: verified when read, replaced atomically, measured by one process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from multimodal_perception.runtime.cache import locked, replace_file

log = logging.getLogger(__name__)
Values = Mapping[str, Any]
KEEP = "keep"  # a measurement with this value false is not stored


def digest_of(values: Any) -> str:
    """Return the SHA-256 of JSON values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def stored_or_measured(
    path: Path, key: Values, measure: Callable[[], Values], renew: bool, name: str
) -> Values:
    """Return the result in a file if it belongs to `key`; otherwise measure it and write the file.

    renew: measure in any case. name: of what is measured, for the log. Another process that measures the
    same waits, because two measurements at once would disturb each other. If the folder cannot be
    written, the result is not stored. Raises the errors of `measure`.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(locked(path.with_suffix(".lock")))
        except OSError as error:
            result, reason = read_measurement(path, key)  # a folder that can only be read
            if result is not None and not renew:
                return result
            log.warning("%s: measurements are not stored: %s", path, error.strerror or error)
            return measure()
        result, reason = (
            (None, "a new measurement was requested") if renew else read_measurement(path, key)
        )
        if result is None:
            log.info("%s: measuring: %s", name, reason)
            result = measure()
            if result.get(KEEP, True):
                _write(path, key, result)
        return result


def read_measurement(path: Path, key: Values) -> tuple[Values | None, str]:
    """Read a result. Returns None and the reason if it is damaged or does not belong to `key`."""
    try:
        content = json.loads(path.read_bytes())
        result, digest, stored_key = content["result"], content["sha256"], content["key"]
    except FileNotFoundError:
        return None, "no stored result"
    except OSError as error:
        return None, f"{path} cannot be read ({error.strerror or error})"
    except (ValueError, TypeError, KeyError, RecursionError):
        return None, f"{path} is damaged"
    if digest != digest_of([result, stored_key]) or not isinstance(result, dict):
        return None, f"{path} is damaged"
    needed = json.loads(json.dumps(key))
    if stored_key != needed:
        changed = [name for name in needed if stored_key.get(name) != needed[name]]
        return None, f"the stored result is for another {', '.join(changed) or 'key'}"
    return result, ""


def _write(path: Path, key: Values, result: Values) -> None:
    """Replace the file atomically. The caller holds the lock."""
    content = {"key": key, "result": result, "sha256": digest_of([result, key])}
    try:
        replace_file(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        log.warning("%s: the measurement is not stored: %s", path, error.strerror or error)
