"""TensorRT engines ahead of time, so that a robot does not build when it starts."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from multimodal_perception.configuration import UserError

if TYPE_CHECKING:
    from multimodal_perception.runtime.card import ModelCard
    from multimodal_perception.runtime.settings import RuntimeConfig
    from multimodal_perception.runtime.tensorrt import Library, LibraryName, Target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a shipped model's name, or the folder of one with its card")
    parser.add_argument(
        "--library",
        choices=("tensorrt", "tensorrt_rtx"),
        help="the default is the first that is installed",
    )
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    parser.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="GPU to build for, such as 8.9; tensorrt_rtx alone, and without it this machine's GPU",
    )
    parser.add_argument("--cache", default="", help="folder; the node's runtime.cache must name it")
    parser.add_argument("--workspace", type=int, default=1024, metavar="MIB")
    parser.add_argument("--dla-core", type=int, default=-1, help="accelerator core of a Jetson")
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="PATH",
        help="int8: bag, dataset or .npz inputs to measure the activations on",
    )
    parser.add_argument("--frames", type=int, default=64, help="of --calibrate, spread over it")
    parser.add_argument("--rebuild", action="store_true", help="even if there is one that fits")


def run(args: argparse.Namespace) -> int:
    from rich.progress import Progress

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
        _calibrate(card, config, args.calibrate, args.frames)
    try:
        library, target = _target(args.library, args.compute_capability, config.gpu)
        with Progress(transient=True) as bar:
            task = bar.add_task(card.name)

            def tell(phase: str, done: int, steps: int) -> None:
                bar.update(task, description=phase, completed=done, total=steps)

            plan = plan_for(library, card, config, target, tell, args.rebuild)
    except EngineError as error:
        raise UserError(str(error)) from error
    path = EngineCache(config.cache_folder).path(
        card.name, engine_key(library, card, config, target)
    )
    print(f"{path}: {len(plan) / 1e6:.1f} MB by {library.name} {library.version}")
    return 0


def _calibrate(card: ModelCard, config: RuntimeConfig, path: Path, frames: int) -> None:
    """Write the card's int8 ONNX into the cache, and say how far it is from the card's own."""
    from tqdm import tqdm

    from multimodal_perception.runtime.precision import calibrated_path
    from multimodal_perception.runtime.quantization import deviation, quantise, recorded_inputs

    if config.precision != "int8":
        raise UserError("--calibrate: is for --precision int8")
    if frames < 1:
        raise UserError("--frames: allowed: 1 or more")
    inputs = recorded_inputs(path, card, frames)
    content = quantise(card, tqdm(inputs, desc="calibrating", unit="frame", leave=False))
    target = calibrated_path(card, config)
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.write_bytes(content)
    except OSError as error:
        raise UserError(f"{target}: {error.strerror or error}") from error
    print(f"{target}: {len(content) / 1e6:.1f} MB")
    for name, share in deviation(card, content, recorded_inputs(path, card, 8)).items():
        print(f"  {name}: mean difference to fp32 on 8 of the frames {100 * share:.2f} %")


def _target(name: LibraryName | None, capability: str | None, gpu: int) -> tuple[Library, Target]:
    """The library and what it builds for. Raises EngineError or UserError."""
    from multimodal_perception.runtime.cuda import Gpu
    from multimodal_perception.runtime.engine import EngineError
    from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target

    both: tuple[LibraryName, ...] = ("tensorrt", "tensorrt_rtx")
    reasons = []
    for candidate in (name,) if name else both:
        try:
            library = Library(candidate)
            if capability is None:
                return library, library.target(Gpu(gpu))
        except EngineError as error:
            hint = "" if capability else "; --compute-capability builds without a GPU"
            reasons.append(f"{candidate}: {error}{hint if candidate == 'tensorrt_rtx' else ''}")
            continue
        match = re.fullmatch(r"(\d{1,2})\.(\d)", capability)
        known = library.capabilities()
        if match is None or (int(match[1]), int(match[2])) not in known:
            allowed = ", ".join(f"{a}.{b}" for a, b in known) or "none, it builds where it runs"
            reasons.append(f"{candidate}: --compute-capability {capability}; allowed: {allowed}")
            continue
        return library, Target(ANY_GPU, (int(match[1]), int(match[2])))
    raise UserError("; ".join(reasons))
