"""The engine cache, with real engines of NVIDIA's builder: right or rebuilt, whatever happened."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from multimodal_perception.runtime.cache import EngineCache, EngineKey, read
from multimodal_perception.runtime.card import ModelCard
from multimodal_perception.runtime.settings import RuntimeConfig
from multimodal_perception.runtime.tensorrt import ANY_GPU, Library, Target, engine_key, plan_for
from test.runtime import small_models as models

SM86, SM89, SM120 = (Target(ANY_GPU, c) for c in ((8, 6), (8, 9), (12, 0)))
KEY = EngineKey("0" * 64, "tensorrt", "10.3.0", "Orin (nvgpu)", "8.7", "fp16", "x 1x3 float32")


class Counted:
    """A builder that counts its builds."""

    def __init__(self, plan: bytes = b"plan") -> None:
        self.plan, self.builds = plan, 0

    def __call__(self) -> bytes:
        self.builds += 1
        return self.plan


@pytest.fixture(scope="module")
def library() -> Library:
    pytest.importorskip("tensorrt_rtx")
    return Library("tensorrt_rtx")


@pytest.fixture
def built(library: Library, tmp_path: Path) -> tuple[ModelCard, RuntimeConfig, Path]:
    """A model whose engine for SM89 is in the cache; the engine's file."""
    card = models.save(tmp_path / "model", models.scatter_model())
    config = RuntimeConfig(cache=str(tmp_path / "cache"))
    plan_for(library, card, config, SM89)
    (path,) = (tmp_path / "cache").glob("*.engine")
    return card, config, path


def without_building(library: Library, card: ModelCard, config: RuntimeConfig, t: Target) -> bytes:
    """The plan from the cache; an error if it would have to be built."""
    return plan_for(library, card, dataclasses.replace(config, build=False), t)


def test_a_built_engine_is_found_again(
    library: Library, built: tuple[ModelCard, RuntimeConfig, Path]
) -> None:
    card, config, path = built
    before = path.stat().st_mtime_ns
    plan = without_building(library, card, config, SM89)
    assert len(plan) > 100_000 and path.read_bytes().endswith(plan)
    assert path.stat().st_mtime_ns == before
    assert path.parent.stat().st_mode & 0o077 == 0


def test_each_gpu_has_its_own_engine(
    library: Library, built: tuple[ModelCard, RuntimeConfig, Path]
) -> None:
    card, config, path = built
    plans = [plan_for(library, card, config, t) for t in (SM86, SM89, SM120)]
    assert len(set(plans)) == 3 and len(list(path.parent.glob("*.engine"))) == 3
    # The file of one GPU under the name of another is told by its header, not by its name.
    other = EngineCache(path.parent).path(card.name, engine_key(library, card, config, SM86))
    other.write_bytes(path.read_bytes())
    assert read(other, engine_key(library, card, config, SM86))[1].startswith(
        "its capability is '8.9'"
    )
    assert plan_for(library, card, config, SM86) == plans[0]


def test_a_stale_onnx_is_rebuilt_in_place(
    library: Library,
    built: tuple[ModelCard, RuntimeConfig, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    _, config, path = built
    old = path.read_bytes()
    card = models.save(path.parent.parent / "model", models.scatter_model(seed=1))
    plan = plan_for(library, card, config, SM89)
    assert "building, as its onnx is" in caplog.text
    assert path.read_bytes().endswith(plan) and path.read_bytes() != old
    assert list(path.parent.glob("*.engine")) == [path]
    assert without_building(library, card, config, SM89) == plan


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda c: c[: len(c) // 2], "plan is truncated"),
        (lambda c: c[:-1], "plan is truncated"),
        (lambda c: c + b"x", "plan is truncated"),
        (lambda c: c[:-100] + bytes([c[-100] ^ 1]) + c[-99:], "plan is truncated"),
        (lambda c: c[:100], "header is damaged"),
        (lambda c: c.replace(b'"key"', b'"kex"', 1), "header is damaged"),
        (lambda c: b"", "not an engine"),
        (lambda c: b"\0" * len(c), "not an engine"),
    ],
)
def test_a_damaged_file_is_rebuilt(
    damage: Callable[[bytes], bytes],
    reason: str,
    library: Library,
    built: tuple[ModelCard, RuntimeConfig, Path],
) -> None:
    card, config, path = built
    path.write_bytes(damage(path.read_bytes()))
    plan, why = read(path, engine_key(library, card, config, SM89))
    assert plan is None and reason in why
    plan = plan_for(library, card, config, SM89)
    assert without_building(library, card, config, SM89) == plan


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EngineKey)])
def test_any_difference_makes_another_engine(field: str, tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), Counted()
    cache.get("m", KEY, build)
    cache.get("m", KEY, build)
    assert build.builds == 1
    cache.get("m", dataclasses.replace(KEY, **{field: "9.9"}), build)
    assert build.builds == 2


def test_two_processes_at_once_build_once(
    library: Library, built: tuple[ModelCard, RuntimeConfig, Path]
) -> None:
    card, config, path = built
    path.unlink()
    code = (
        "import logging, sys; logging.basicConfig(level=20, stream=sys.stdout)\n"
        "from multimodal_perception.runtime.card import load_card\n"
        "from multimodal_perception.runtime.settings import RuntimeConfig\n"
        "from multimodal_perception.runtime.tensorrt import *\n"
        "card, library = load_card(sys.argv[1]), Library('tensorrt_rtx')\n"
        "config = RuntimeConfig(cache=sys.argv[2])\n"
        "print(len(plan_for(library, card, config, Target(ANY_GPU, (8, 9)))))\n"
    )
    command = [sys.executable, "-c", code, str(card.path), config.cache]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [p.communicate(timeout=60)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert sum("building, as there is none yet" in o for o in outputs) == 1
    assert outputs[0].split()[-1] == outputs[1].split()[-1]
    assert read(path, engine_key(library, card, config, SM89))[0] is not None


def _build_slowly(folder: Path, started: Path) -> None:
    def build() -> bytes:
        started.touch()
        time.sleep(60)
        return b"never"

    EngineCache(folder).get("m", KEY, build)


def test_a_builder_that_is_killed_blocks_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_build_slowly, args=(tmp_path, tmp_path / "started"))
    process.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert EngineCache(tmp_path).get("m", KEY, Counted()) == b"plan"


def test_a_write_that_is_cut_short_leaves_the_old_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)
    cache.get("m", KEY, Counted())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cache.get("m", KEY, Counted(b"new"), rebuild=True) == b"new"
    assert "No space left" in caplog.text
    assert read(cache.path("m", KEY), KEY) == (b"plan", "")
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert EngineCache(tmp_path / "file" / "cache").get("m", KEY, Counted()) == b"plan"
    assert "engines are not kept" in caplog.text


def test_a_build_that_fails_leaves_nothing_and_is_not_tried_twice(tmp_path: Path) -> None:
    builds = []

    def build() -> bytes:
        builds.append(1)
        raise OSError("out of memory")

    with pytest.raises(OSError, match="out of memory"):
        EngineCache(tmp_path).get("m", KEY, build)
    assert len(builds) == 1 and not list(tmp_path.glob("*.engine"))
