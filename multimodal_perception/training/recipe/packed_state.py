"""The state of a recipe's training in one small file, from which another machine continues it.

The file has the weights of the finished stages that later stages need, and the state of the running
stage: weights and their moving average in half precision, and the second moments of the optimiser in
factored form (Adafactor, Shazeer & Stern 2018, section 3). The first moments start at zero and reach
their values within some ten steps. Rendered data is not part of it, because it is simulated again from
the seeds. Each stage has the key of its step, so that a state of another recipe is not used.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor

from multimodal_perception.configuration import UserError
from multimodal_perception.files import atomic_write
from multimodal_perception.training import checkpoint
from multimodal_perception.training.recipe.steps import Step, StepRunner

FILE = "checkpoint.safetensors"
MAX_BYTES = 16 << 20
# Parts of a checkpoint (see Loop) that can be packed.
PARTS = {"progress", "network", "ema", "optimizer", "schedule", "scaler"}
# Tensors with fewer values stay in full precision, as do those with values beyond that of float16.
MIN_HALF_VALUES, MAX_HALF = 256, 6e4
OPTIMIZER_TENSORS = {"step", "exp_avg", "exp_avg_sq"}


def pack(runner: StepRunner, path: Path) -> str:
    """Write the state of the stages of a recipe that are finished or running.

    path: the file, which is replaced. Returns a description. Raises UserError if no stage was started,
    or if the file would be larger than MAX_BYTES.
    """
    stages = [step for step in runner.steps.values() if step.name.startswith("train/")]
    needed = {name for s in stages if runner.state(s) != "finished" for name in s.needs}
    needed |= {
        name for s in runner.steps.values() if s.name.startswith("export") for name in s.needs
    }
    tensors: dict[str, Tensor] = {}
    content: dict[str, dict[str, Any]] = {}
    for step in stages:
        state = runner.state(step)
        if state == "finished" and step.name in needed:
            content[step.name] = _pack_files(step, tensors)
        elif state == "interrupted" and (step.output / "checkpoint.pt").exists():
            content[step.name] = _pack_checkpoint(step, tensors)
        else:
            continue
        content[step.name]["key"] = runner.keys[step.name]
    if not content:
        raise UserError(f"{runner.folder}: no stage was started, so there is no state to write")
    data = serialise(tensors, {"stages": json.dumps(content)})
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: {len(data) / 2**20:.1f} MiB; allowed: at most 16 MiB")
    with atomic_write(path) as file:
        file.write(data)
    names = ", ".join(f"{n} ({c['description']})" for n, c in content.items())
    return f"{path}: {len(data) / 2**20:.1f} MiB, {names}"


def restore(runner: StepRunner, path: Path, report: Callable[[str], None] = print) -> None:
    """Restore the stages of a file that `pack` wrote, where the folder of the recipe has no state.

    report: receives a line for each stage that is restored or that belongs to another recipe. A folder
    with any state of a stage is left as it is. Raises UserError for a file that cannot be read.
    """
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})["stages"])
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a packed state of a recipe: {error}") from error
    for name, values in content.items():
        step = runner.steps.get(name)
        if step is None or runner.keys[name] != values["key"]:
            report(f"{path.name}: {name}: belongs to another recipe and is not used")
        elif runner.state(step) == "pending":
            prefix = f"{name}/"
            own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            step.output.mkdir(parents=True, exist_ok=True)
            if values["finished"]:
                _restore_files(step, values, own)
            else:
                _restore_checkpoint(step, values, own)
            runner.mark(step, "finished" if values["finished"] else "started")
            report(f"{path.name}: {name}: restored ({values['description']})")


def _pack_files(step: Step, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Files of weights and texts that a finished stage wrote, and its time."""
    weights, texts = [], {}
    for path in sorted(step.output.iterdir()):
        if path.suffix == ".safetensors":
            weights.append(path.name)
            for name, tensor in load_file(path).items():
                tensors[f"{step.name}/{path.name}/{name}"] = tensor
        elif path.suffix == ".json":
            texts[path.name] = path.read_text(encoding="utf-8")
    state = _read_checkpoint(step)
    return {
        "finished": True,
        "description": "finished",
        "weights": weights,
        "texts": texts,
        "progress": state["progress"],
    }


def _restore_files(step: Step, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for file in values["weights"]:
        prefix = f"{file}/"
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        checkpoint.write_weights(own, step.output / file)
    for file, text in values["texts"].items():
        (step.output / file).write_text(text, encoding="utf-8")
    # The model card states the hours of all stages.
    _write_checkpoint(step, {"progress": values["progress"]})


def _pack_checkpoint(step: Step, tensors: dict[str, Tensor]) -> dict[str, Any]:
    state = _read_checkpoint(step)
    if set(state) - PARTS:
        raise UserError(f"{step.name}: {min(set(state) - PARTS)}: cannot be packed")
    for part in ("network", "ema"):
        for name, tensor in state[part].items():
            tensors[f"{step.name}/{part}/{name}"] = _halved(tensor)
    optimizer = state["optimizer"]
    steps = {}
    for number, values in optimizer["state"].items():
        if set(values) != OPTIMIZER_TENSORS:
            raise UserError(f"{step.name}: only states of AdamW without extensions can be packed")
        steps[str(number)] = float(values["step"])
        for name, tensor in _factored(values["exp_avg_sq"]).items():
            tensors[f"{step.name}/moments/{number}/{name}"] = tensor
    done = state["progress"]["step"]
    return {
        "finished": False,
        "description": f"step {done}",
        "progress": state["progress"],
        "schedule": state["schedule"],
        "scaler": state["scaler"],
        "param_groups": optimizer["param_groups"],
        "optimizer_steps": steps,
    }


def _restore_checkpoint(
    step: Step, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    state: dict[str, Any] = {n: values[n] for n in ("progress", "schedule", "scaler")}
    for part in ("network", "ema"):
        prefix = f"{part}/"
        state[part] = {
            n.removeprefix(prefix): t.float() if t.dtype == torch.float16 else t
            for n, t in tensors.items()
            if n.startswith(prefix)
        }
    parameters = {}
    for number, done in values["optimizer_steps"].items():
        prefix = f"moments/{number}/"
        second = _unfactored(
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        )
        parameters[int(number)] = {
            "step": torch.tensor(done),
            "exp_avg": torch.zeros_like(second),
            "exp_avg_sq": second,
        }
    state["optimizer"] = {"state": parameters, "param_groups": values["param_groups"]}
    _write_checkpoint(step, state)


def _halved(tensor: Tensor) -> Tensor:
    """The tensor in half precision, where that is sufficient."""
    tensor = tensor.detach().contiguous()
    if not tensor.is_floating_point() or tensor.numel() < MIN_HALF_VALUES:
        return tensor
    return tensor.half() if float(tensor.abs().max()) < MAX_HALF else tensor


def _factored(moment: Tensor) -> dict[str, Tensor]:
    """Row and column means of a second moment, or the moment itself if it has few values."""
    shape = torch.tensor(moment.shape, dtype=torch.int64)
    if moment.ndim < 2 or moment.numel() < MIN_HALF_VALUES:
        return {"shape": shape, "values": moment.float().contiguous()}
    matrix = moment.float().flatten(1)
    return {"shape": shape, "rows": matrix.mean(1), "columns": matrix.mean(0)}


def _unfactored(parts: Mapping[str, Tensor]) -> Tensor:
    """Adafactor, algorithm 2: the product of rows and columns divided by their mean."""
    shape = tuple(int(n) for n in parts["shape"])
    if "values" in parts:
        return parts["values"].reshape(shape)
    rows, columns = parts["rows"], parts["columns"]
    product = rows[:, None] * columns[None] / rows.mean().clamp(min=1e-30)
    return product.reshape(shape).contiguous()


def _read_checkpoint(step: Step) -> dict[str, Any]:
    path = step.output / "checkpoint.pt"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # the type depends on what is damaged
        raise UserError(f"{path}: not a checkpoint of a training run: {error}") from error


def _write_checkpoint(step: Step, state: Mapping[str, Any]) -> None:
    path = step.output / "checkpoint.pt"
    with atomic_write(path) as file:
        torch.save(dict(state), file)
