"""Pages that are generated from the code when the site is built.

They are: model zoo, parameters, commands, and what is accepted in messages and bags.

MkDocs runs this file (plugin gen-files). Nothing here is written into docs/.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mkdocs_gen_files

from multimodal_perception.cli.main import COMMANDS, Command
from multimodal_perception.runtime.card import ModelCard, load_card, shipped_cards

# Sections of the page "What is accepted", and the modules whose table ACCEPTED each consists of.
ACCEPTED_TABLES: dict[str, tuple[str, ...]] = {
    "Point clouds": ("messages.pointcloud", "messages.point_layout", "messages.point_times"),
    "Camera and thermal images": ("messages.images", "messages.compressed", "messages.thermal"),
    "Camera calibration": ("messages.camera_info",),
    "Ranges, odometry and other messages": ("messages.decoders", "messages.odometry"),
    "Frames of reference": ("synchronization.sensor_frames",),
    "Bags": (
        "datasets.bag_files",
        "datasets.bag_topics",
        "datasets.bag_rig",
        "datasets.bag_transforms",
    ),
}
LATENCIES = Path(__file__).parent / "reference" / "engine_latency.json"
LATENCY_COMMAND = "bench engine --all --json docs/reference/engine_latency.json"


def write_page(path: str, title: str, introduction: str, body: str) -> None:
    with mkdocs_gen_files.open(path, "w") as page:
        page.write(f"# {title}\n\n{introduction}\n\n{body}\n")


def model_zoo() -> str:
    """One table row for each shipped model, and a section with the details of its card."""
    cards = [load_card(path) for path in shipped_cards()]
    latencies = json.loads(LATENCIES.read_text(encoding="utf-8"))
    lines = [
        "| model | task | inputs | size | latency | main figure | training data | licence |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in cards:
        cells = (
            f"[`{card.name}`](#{card.name})",
            card.task,
            ", ".join(f"`{name}`" for name in card.inputs),
            f"{sum(size for _, size in file_sizes(card)):.1f} MiB",
            latency_text(latencies["models"].get(card.name)),
            table_text(card.figures.get("main", "see the model's section")),
            table_text(first_sentence(card.training.data if card.training else "")),
            card.licence,
        )
        lines.append(f"| {' | '.join(cells)} |")
    note = (
        "Latency: median of repeated runs with ONNX Runtime in float32 on "
        f"{latencies['threads']} threads of a virtual machine with the processor "
        f"{latencies['cpu']}, and the time of the other engines divided by it. No GPU was "
        "available, and the measuring process had a raised priority, because the computer was shared. "
        "Command: "
        f"`multimodal-perception {LATENCY_COMMAND}`. Size: ONNX file and weights file together."
    )
    sections = [section(card) for card in cards]
    return "\n".join(lines) + f"\n\n{note}\n\n" + "\n\n".join(sections)


def latency_text(result: Mapping[str, Any] | None) -> str:
    """Milliseconds with ONNX Runtime, and the ratio of each other engine that was measured."""
    engines = {} if result is None else result["engines"]
    times = {name: values["p50_ms"] for name, values in engines.items() if "p50_ms" in values}
    if "onnxruntime" not in times:
        return "not measured"
    reference = times.pop("onnxruntime")
    ratios = (f"{name} {time / reference:.1f}x" for name, time in times.items())
    return "; ".join((f"{reference:.1f} ms", *ratios))


def first_sentence(text: str) -> str:
    return f"{text.partition('. ')[0].rstrip('.')}." if text else "not stated"


def table_text(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def file_sizes(card: ModelCard) -> list[tuple[str, float]]:
    """Names and sizes of the model's files, MiB."""
    assert card.path is not None
    names = [f.file for f in (card.onnx, card.weights) if f is not None]
    return [(name, (card.path.parent / name).stat().st_size / 2**20) for name in names]


def section(card: ModelCard) -> str:
    lines = [f"## {card.name}", "", card.task, "", card.notes.strip(), ""]
    for title, specs in (("Inputs", card.inputs), ("Outputs", card.outputs)):
        tensors = (f"`{name}` {shape_text(s.shape)} {s.dtype}" for name, s in specs.items())
        lines += [f"{title}: {', '.join(tensors)}.", ""]
    if card.classes:
        lines += [f"Classes: {', '.join(card.classes)}.", ""]
    sizes = (f"`{name}` {size:.1f} MiB" for name, size in file_sizes(card))
    lines += [f"Files: {', '.join(sizes)}.", ""]
    if card.training is not None:
        data = card.training.data.rstrip(".") or "not stated"
        lines += [
            f"Training data: {data}.",
            "",
            f"Training: {card.training.hours:g} hours; {card.training.device}.",
            "",
        ]
    rows = list(figure_rows(card.figures))
    if rows:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines)


def figure_rows(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested figures of a card as rows."""
    for name, value in figures.items():
        title = f"{prefix}{str(name).replace('_', ' ')}"
        if isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values()):
            yield from figure_rows(value, f"{title}: ")
        elif isinstance(value, Mapping):
            yield title, table_text("; ".join(f"{k} {v}" for k, v in value.items()))
        else:
            yield title, table_text(str(value))


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
        title = program.removeprefix("multimodal-perception ")
        yield f"## {title}\n\n```text\n{parser.format_help()}```"


def parameter_reference() -> str:
    from multimodal_perception.ros.parameters import parameter_table

    return parameter_table()


def accepted() -> str:
    """A table for each kind of message, from the tables that the decoders are built from."""
    sections = []
    for title, modules in ACCEPTED_TABLES.items():
        rows = []
        for name in modules:
            module = importlib.import_module(f"multimodal_perception.{name}")
            for entry in module.ACCEPTED:
                values = ", ".join(f"`{value}`" for value in entry.values)
                cells = (entry.what, values, entry.interpretation, entry.otherwise)
                rows.append("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |")
        header = "| what | accepted | how it is used | otherwise |\n|---|---|---|---|"
        sections.append(f"## {title}\n\n" + "\n".join([header, *rows]))
    return "\n\n".join(sections)


write_page(
    "reference/accepted.md",
    "What is accepted",
    "Encodings, fields, units and conventions of the messages and bags that are used, and what happens "
    "to others. Dropped readings are counted by the reason given here, in `/diagnostics` and in the "
    "output of the commands. This page is generated from the tables that the decoders use.",
    accepted(),
)
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
