"""Steps of a recipe and the markers that make them resumable.

Each step has a key: the SHA-256 of its inputs and of the keys of the steps that it depends on. A marker
file with the key is written before the step starts and another one when it is finished. A finished step
is skipped; an unfinished step with the same key continues with the files that it has written; the
outputs of a step with another key are deleted. The result is therefore the same however often a run is
interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from multimodal_perception.configuration import UserError
from multimodal_perception.training.recipe.workflow import Cost

State = Literal["finished", "interrupted", "pending"]
MARKERS = "steps"


@dataclass(frozen=True)
class Step:
    """One step of a recipe.

    name: unique, as "train/fusion". inputs: values that define the result, as JSON can represent them.
    needs: names of the steps whose results it uses. output: file or folder that it writes. run: does it,
    and continues with files in `output`. only_for_others: whether it is left out once all steps that
    need it are finished.
    """

    name: str
    description: str
    inputs: Mapping[str, Any]
    needs: tuple[str, ...]
    output: Path
    run: Callable[[], None]
    cost: Cost = field(default=Cost(0.0, 0.0))
    only_for_others: bool = False


class StepRunner:
    """Runs steps in a folder and keeps their markers."""

    def __init__(self, folder: Path, steps: Sequence[Step]) -> None:
        self.folder, self.steps = folder, {step.name: step for step in steps}
        self.keys: dict[str, str] = {}
        for step in steps:
            content = {
                "name": step.name,
                "inputs": step.inputs,
                "needs": [self.keys[name] for name in step.needs],
            }
            text = json.dumps(content, sort_keys=True)
            self.keys[step.name] = hashlib.sha256(text.encode()).hexdigest()

    def state(self, step: Step) -> State:
        """Whether a step is finished, was interrupted, or has to be run from the beginning."""
        if self._read_marker(step, "finished") == self.keys[step.name] and step.output.exists():
            return "finished"
        if self._read_marker(step, "started") == self.keys[step.name]:
            return "interrupted"
        return "pending"

    def run(self, step: Step) -> None:
        """Run a step unless it is finished. Raises UserError when a step that it needs is not."""
        if self.state(step) == "finished" or self.is_superfluous(step):
            return
        for name in step.needs:
            if self.state(self.steps[name]) != "finished":
                raise UserError(f"{step.name}: the step {name} is not finished; run it first")
        if self.state(step) == "pending":
            _remove(self._marker(step, "finished"))
            _remove(self._marker(step, "started"))
            _remove(step.output)
            write_atomically(self._marker(step, "started"), self.keys[step.name])
        step.run()
        write_atomically(self._marker(step, "finished"), self.keys[step.name])

    def is_superfluous(self, step: Step) -> bool:
        """Whether a step only serves other steps and all of these are finished."""
        users = [other for other in self.steps.values() if step.name in other.needs]
        return step.only_for_others and all(self.state(other) == "finished" for other in users)

    def mark(self, step: Step, suffix: Literal["started", "finished"]) -> None:
        """Write a marker of a step whose output was restored."""
        write_atomically(self._marker(step, suffix), self.keys[step.name])

    def _marker(self, step: Step, suffix: str) -> Path:
        return self.folder / MARKERS / f"{step.name.replace('/', '_')}.{suffix}"

    def _read_marker(self, step: Step, suffix: str) -> str:
        try:
            return self._marker(step, suffix).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return ""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create and lock the output folder of a recipe. The lock ends with the process.

    Raises UserError when another process uses it, or when it contains anything but the output of a
    recipe.
    """
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / MARKERS).is_dir():
            raise UserError(f"{folder}: is not empty and not the output folder of a recipe")
        (folder / MARKERS).mkdir(parents=True, exist_ok=True)
        with (folder / MARKERS / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: is used by another process") from None
            yield
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, so that it is complete whenever it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
