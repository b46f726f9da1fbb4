"""Pages that are generated from the code when the site is built: model zoo, parameters, commands.

MkDocs runs this file (plugin gen-files). Nothing here is written into docs/.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import mkdocs_gen_files

from multimodal_perception.cli.main import COMMANDS, Command
from multimodal_perception.runtime.card import ModelCard, load_card, shipped_cards


def write_page(path: str, title: str, introduction: str, body: str) -> None:
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(f"# {title}\n\n{introduction}\n\n{body}\n")


def model_zoo() -> str:
    """One table row a shipped model, and a section with the details of its card."""
    cards = [load_card(path) for path in shipped_cards()]
    lines = [
        "| model | task | inputs | parameters file | licence |",
        "|---|---|---|---|---|",
    ]
    for card in cards:
        inputs = ", ".join(f"`{name}` {shape_text(s.shape)}" for name, s in card.inputs.items())
        lines.append(
            f"| [`{card.name}`](#{card.name}) | {card.task} | {inputs} | {size_text(card)} | "
            f"{card.licence} |"
        )
    sections = [section(card) for card in cards]
    return "\n".join(lines) + "\n\n" + "\n\n".join(sections)


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def size_text(card: ModelCard) -> str:
    assert card.path is not None
    files = [f.file for f in (card.onnx, card.weights) if f is not None]
    sizes = [(card.path.parent / name).stat().st_size / 2**20 for name in files]
    return ", ".join(f"`{n}` {s:.1f} MiB" for n, s in zip(files, sizes, strict=True))


def section(card: ModelCard) -> str:
    lines = [f"## {card.name}", "", card.notes.strip() or card.task, ""]
    if card.classes:
        lines += [f"Classes: {', '.join(card.classes)}.", ""]
    if card.training is not None:
        lines += [f"Training data: {card.training.data or 'not stated'}.", ""]
    rows = list(figure_rows(card.figures))
    if rows:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines)


def figure_rows(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures of a card as rows."""
    for name, value in figures.items():
        title = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from figure_rows(value, f"{title}: ")
        else:
            yield title, str(value).replace("|", "\\|").replace("\n", " ")


def command_reference(
    commands: Mapping[str, Command], prefix: str = "multimodal-perception"
) -> Iterator[str]:
    """A section with the help text of each command."""
    for name, command in commands.items():
        program = f"{prefix} {name}"
        if command.subcommands:
            yield from command_reference(command.subcommands, program)
            continue
        parser = argparse.ArgumentParser(prog=program, description=command.help)
        module = importlib.import_module(command.module, "multimodal_perception.cli")
        module.add_arguments(parser)
        yield f"## {program.removeprefix('multimodal-perception ')}\n\n```text\n{parser.format_help()}```"


def parameter_reference() -> str:
    from multimodal_perception.ros.parameters import parameter_table

    return parameter_table()


write_page(
    "model_zoo.md",
    "Model zoo",
    "All models in `config/models`. This page is generated from their model cards (`card.yaml`).",
    model_zoo(),
)
write_page(
    "reference/parameters.md",
    "Parameters",
    "All parameters of `perception_node`, with defaults, ranges and units. This page and "
    "`config/perception.yaml` are generated from the same source.",
    parameter_reference(),
)
write_page(
    "reference/cli.md",
    "Command line",
    "Help texts of all commands. This page is generated from the code.",
    "\n\n".join(command_reference(COMMANDS)),
)
