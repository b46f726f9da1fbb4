"""Builds TensorRT engines ahead of time, so that the node starts without building them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal_perception.configuration import UserError

if TYPE_CHECKING:
    from multimodal_perception.runtime.tensorrt import Library, LibraryName, Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of a shipped model, or a model folder with its card")
    parser.add_argument(
        "--library",
        choices=("tensorrt", "tensorrt_rtx"),
        help="default: the first one that is installed",
    )
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="default: fp32"
    )
    parser.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="compute capability of the GPU to build for, for example 8.9; only with tensorrt_rtx "
        "(default: the GPU of this machine)",
    )
    parser.add_argument(
        "--cache",
        default="",
        help="cache folder of the engine; set pipeline.runtime.cache of the node to the same folder",
    )
    parser.add_argument(
        "--workspace", type=int, default=1024, metavar="MIB", help="GPU memory for building"
    )
    parser.add_argument(
        "--dla-core", type=int, default=-1, help="DLA core of a Jetson; -1 (default) uses the GPU"
    )
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="PATH",
        help="with --precision int8: bag, dataset or .npz inputs for the calibration of activations",
    )
    parser.add_argument(
        "--frames",
        type=int,
        default=64,
        help="number of frames of --calibrate, evenly spaced (default: 64)",
    )
    parser.add_argument(
        "--rebuild", action="store_true", help="build even if the cache contains a valid engine"
    )


def run(args: argparse.Namespace) -> int:
    from rich.progress import Progress

    from multimodal_perception.cli.export.int8 import calibrate
    from multimodal_perception.configuration import build
    from multimodal_perception.runtime.cache import EngineCache
    from multimodal_perception.runtime.card import load_card
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.settings import RuntimeConfig
    from multimodal_perception.runtime.tensorrt import engine_key, plan_for

    card = load_card(args.model)
    values = {
        "precision": args.precision,
        "cache": args.cache,
        "workspace_mib": args.workspace,
        "dla_core": args.dla_core,
    }
    config = build(RuntimeConfig, values, "arguments")
    if args.calibrate is not None:
        if args.precision != "int8":
            raise UserError("--calibrate: only allowed with --precision int8")
        calibrate(card, config.cache_folder, str(args.calibrate), args.frames)
    try:
        library, target = _target(args.library, args.compute_capability, config.gpu)
        with Progress(transient=True) as bar:
            task = bar.add_task(card.name)

            def show_progress(phase: str, done: int, steps: int) -> None:
                bar.update(task, description=phase, completed=done, total=steps)

            plan = plan_for(library, card, config, target, show_progress, args.rebuild)
    except EngineError as error:
        raise UserError(str(error)) from error
    path = EngineCache(config.cache_folder).path(
        card.name, engine_key(library, card, config, target)
    )
    print(f"{path}: {len(plan) / 1e6:.1f} MB by {library.name} {library.version}")
    return 0


def _target(name: LibraryName | None, capability: str | None, gpu: int) -> tuple[Library, Target]:
    """The library and the build target. Raises EngineError or UserError."""
    from multimodal_perception.runtime.cuda import Gpu
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target

    libraries: tuple[LibraryName, ...] = ("tensorrt", "tensorrt_rtx")
    reasons = []
    for candidate in (name,) if name else libraries:
        try:
            library = Library(candidate)
            if capability is None:
                return library, library.target(Gpu(gpu))
        except EngineError as error:
            hint = "" if capability else "; --compute-capability builds without a GPU"
            reasons.append(f"{candidate}: {error}{hint if candidate == 'tensorrt_rtx' else ''}")
            continue
        match = re.fullmatch(r"(\d{1,2})\.(\d)", capability)
        capabilities = library.capabilities()
        if match is None or (int(match[1]), int(match[2])) not in capabilities:
            allowed = (
                ", ".join(f"{a}.{b}" for a, b in capabilities)
                or "none; it builds only for the GPU of this machine"
            )
            reasons.append(f"{candidate}: --compute-capability {capability}; allowed: {allowed}")
            continue
        return library, Target(ANY_GPU, (int(match[1]), int(match[2])))
    raise UserError("; ".join(reasons))
