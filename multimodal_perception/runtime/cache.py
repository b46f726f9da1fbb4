"""Built engines on disk: verified when read, replaced whole, built by one process at a time."""

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
MAX_HEADER = 1 << 16


@dataclass(frozen=True)
class EngineKey:
    """What a built engine depends on. Any difference makes it another engine.

    onnx: SHA-256 of the model. library, version: of the builder. gpu: its name; "any" where the
    engine serves all of its compute capability (tensorrt_rtx). capability: such as 8.9. precision:
    fp32, fp16, int8. profile: input shapes and what else was asked of the builder.
    """

    onnx: str
    library: str
    version: str
    gpu: str
    capability: str
    precision: str
    profile: str


class EngineCache:
    """A folder of engines, one file for each model, library, GPU and precision.

    Another ONNX, version or profile replaces the file, so that the folder does not grow with every
    training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: str, key: EngineKey) -> Path:
        gpu = re.sub(r"[^a-z0-9]+", "_", key.gpu.lower()).strip("_")
        name = f"{model}-{key.library}-sm{key.capability.replace('.', '')}-{gpu}-{key.precision}"
        return self.folder / f"{name}.engine"

    def get(
        self, model: str, key: EngineKey, build: Callable[[], bytes], rebuild: bool = False
    ) -> bytes:
        """The plan from the file, or from `build`, which is then written. rebuild: in any case.

        Other processes that want the same wait and read what the first has built. A folder that
        cannot be written costs the cache, not the engine.
        """
        path = self.path(model, key)
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(_locked(path.with_suffix(".lock")))
            except OSError as error:
                log.warning("%s: engines are not kept: %s", self.folder, error.strerror or error)
                return build()
            plan, reason = (None, "it was asked for") if rebuild else read(path, key)
            if plan is None:
                log.info("%s: building, as %s", path.name, reason)
                plan = build()
                _write(path, key, plan)
            return plan


def read(path: Path, key: EngineKey) -> tuple[bytes | None, str]:
    """The plan in a file, or None and why the file is not the engine of this key."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, "there is none yet"
    except OSError as error:
        return None, f"the file cannot be read ({error.strerror or error})"
    if not content.startswith(MAGIC):
        return None, "the file is not an engine of this package"
    start = len(MAGIC)
    end = content.find(b"\n", start, start + MAX_HEADER)
    try:
        header = json.loads(content[start : max(end, start)])
        found, digest = dict(header["key"]), str(header["sha256"])
    except (ValueError, TypeError, KeyError):
        return None, "its header is damaged"
    for name, value in dataclasses.asdict(key).items():
        if found.get(name) != value:
            return None, f"its {name} is {str(found.get(name))[:40]!r}, wanted {value[:40]!r}"
    plan = content[end + 1 :]
    if hashlib.sha256(plan).hexdigest() != digest:
        return None, "its plan is truncated or damaged"
    return plan, ""


def _write(path: Path, key: EngineKey, plan: bytes) -> None:
    """Replace the file at once: who reads it sees the old one or the new one. Under the lock."""
    digest = hashlib.sha256(plan).hexdigest()
    header = json.dumps({"key": dataclasses.asdict(key), "sha256": digest})
    temporary = path.with_suffix(".part")  # of a writer that was killed: overwritten
    try:
        with open(temporary, "wb") as file:
            file.write(MAGIC + header.encode() + b"\n" + plan)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        log.warning("%s: engine is not kept: %s", path, error.strerror or error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system gives back when the process ends, however it ends."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another process is building this engine; waiting", path.stem)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
