"""Model cards of a recipe: exported cards with the description of the training run and the figures."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from multimodal_perception import __version__
from multimodal_perception.configuration import UserError
from multimodal_perception.runtime.card import ModelCard, Training, load_card, write_card
from multimodal_perception.training.checkpoint import read_hours
from multimodal_perception.training.recipe.configuration import RecipeFile
from multimodal_perception.training.recipe.figure_summary import summarize_figures
from multimodal_perception.training.recipe.workflows import WORKFLOWS


def write_model_cards(
    file: RecipeFile,
    exported: Path,
    out: Path,
    evaluations: Mapping[str, Path],
    stages: Sequence[Path],
    parts: Mapping[str, str],
) -> None:
    """Copy exported model folders to `out` and complete their cards.

    evaluations: JSON files of the figures by name. stages: output folders of all stages. parts: stage of
    each exported part. `out` is replaced when the new folder is complete. If a crash between the two
    renames leaves no `out`, the next call first restores the previous folder. Raises UserError.
    """
    previous = out.with_name(f".{out.name}.previous")
    if previous.exists() and not out.exists():
        os.replace(previous, out)
    recipe = file.recipe
    training = Training(
        command=f"train recipe {file.path.name}",
        seed=file.configs[next(iter(parts.values()))].loop.seed,
        hours=round(sum(read_hours(folder) for folder in stages), 4),
        device=_device(),
        data=describe_data(file),
        recipe=file.path.name,
        files=file.file_hashes(),
        version=package_version(),
    )
    figures = {
        name: {
            "command": f"evaluate {recipe.evaluation[name]}",
            **_read_figures(path, exported / recipe.name),
        }
        for name, path in evaluations.items()
    }
    unfinished = out.with_name(f".{out.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(exported, unfinished)
    for folder in sorted(p for p in unfinished.iterdir() if p.is_dir()):
        card = load_card(folder)
        values: dict[str, Any] = {"training": training}
        if folder.name == recipe.name:
            notes = " ".join(text for text in (card.notes, recipe.notes.strip()) if text)
            values |= {"figures": {**card.figures, **figures}, "notes": notes}
        _write(folder, dataclasses.replace(card, **values))
    shutil.rmtree(previous, ignore_errors=True)
    if out.exists():
        os.replace(out, previous)
    os.replace(unfinished, out)
    shutil.rmtree(previous, ignore_errors=True)


def describe_data(file: RecipeFile) -> str:
    """The training data of a recipe in words."""
    texts = []
    for name, data in file.recipe.data.items():
        drives = len(data.seed_list())
        texts.append(
            f"{name}: {drives} simulated drives (seeds {', '.join(data.seeds)}), up to "
            f"{data.frames} frames each, {WORKFLOWS[file.recipe.network].describe_rigs(data)}"
        )
        if data.pairs:
            texts[-1] += f", and the image pairs in {data.pairs}"
        if data.images:
            texts[-1] += f", and the labelled real images in {data.images}"
    return "; ".join(texts)


def package_version() -> str:
    """The version of the package, followed by " (COMMIT)" in a git checkout."""
    folder = Path(__file__).resolve().parents[3]
    if not (folder / ".git").exists():
        return __version__
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__} ({result.stdout.strip()})"


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def _read_figures(path: Path, model: Path) -> dict[str, Any]:
    """The summary of an evaluation. The path of the evaluated model is replaced by its name."""
    try:
        text = path.read_text(encoding="utf-8").replace(str(model), model.name)
        return summarize_figures(json.loads(text))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def _write(folder: Path, card: ModelCard) -> None:
    write_card(folder, card, "model.onnx", "model.safetensors")
