"""Cache of built engines on disk.

Files are verified when read, replaced atomically, and built by one process at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)
MAGIC = b"multimodal_perception engine 1\n"
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class EngineKey:
    """Everything that a built engine depends on.

    onnx: SHA-256 of the model. library, version: of the builder. device: name of the GPU or processor;
    "any" if the engine runs on every GPU of its compute capability (tensorrt_rtx). capability: compute
    capability of a GPU, such as 8.9; empty for other devices. precision: fp32, bf16, fp16, int8.
    profile: input shapes and builder options.
    """

    onnx: str
    library: str
    version: str
    device: str
    capability: str
    precision: str
    profile: str


class EngineCache:
    """A folder of engines, one file for each model, library, GPU and precision.

    An engine for another ONNX model, version or profile replaces the file, so that the folder does not
    grow with each training run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: str, key: EngineKey) -> Path:
        """Return the path of the engine file of a model."""
        device = re.sub(r"[^a-z0-9]+", "_", key.device.lower()).strip("_")
        if key.capability:
            device = f"sm{key.capability.replace('.', '')}-{device}"
        return self.folder / f"{model}-{key.library}-{device}-{key.precision}.engine"

    def get(
        self, model: str, key: EngineKey, build: Callable[[], bytes], rebuild: bool = False
    ) -> bytes:
        """Return the plan from the file, or call `build` and write its result to the file.

        rebuild: call `build` in any case. Other processes that need the same engine wait, then read the
        file. If the folder cannot be written, the engine is built and not cached.
        """
        path = self.path(model, key)
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(locked(path.with_suffix(".lock")))
            except OSError as error:
                log.warning("%s: engines are not cached: %s", self.folder, error.strerror or error)
                return build()
            plan, reason = (None, "a rebuild was requested") if rebuild else read(path, key)
            if plan is None:
                log.info("%s: building the engine: %s", path.name, reason)
                plan = build()
                _write(path, key, plan)
            return plan


def read(path: Path, key: EngineKey) -> tuple[bytes | None, str]:
    """Read the plan from a file. Returns None and the reason if it is not the engine of this key."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, "no file yet"
    except OSError as error:
        return None, f"the file cannot be read ({error.strerror or error})"
    if not content.startswith(MAGIC):
        return None, "the file is not an engine of this package"
    start = len(MAGIC)
    end = content.find(b"\n", start, start + MAX_HEADER_BYTES)
    try:
        header = json.loads(content[start : max(end, start)])
        stored_key, digest = dict(header["key"]), str(header["sha256"])
    except (ValueError, TypeError, KeyError):
        return None, "the file's header is damaged"
    for name, value in dataclasses.asdict(key).items():
        stored = stored_key.get(name)
        if stored != value:
            return None, f"the file's {name} is {str(stored)[:40]!r}, needed: {value[:40]!r}"
    plan = content[end + 1 :]
    if hashlib.sha256(plan).hexdigest() != digest:
        return None, "the file's plan is truncated or damaged"
    return plan, ""


def _write(path: Path, key: EngineKey, plan: bytes) -> None:
    """Replace the file atomically. The caller holds the lock."""
    digest = hashlib.sha256(plan).hexdigest()
    header = json.dumps({"key": dataclasses.asdict(key), "sha256": digest})
    try:
        replace_file(path, MAGIC + header.encode() + b"\n" + plan)
    except OSError as error:
        log.warning("%s: the engine is not cached: %s", path, error.strerror or error)


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file atomically. The caller holds the file's lock. Raises OSError."""
    temporary = path.with_suffix(".part")  # one left by a killed process is overwritten
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock, which the system releases even if the process is killed. Raises OSError."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process holds the lock; waiting", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
