"""The engine cache, tested with real engines of TensorRT-RTX: valid files are used, others rebuilt."""

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


class CountingBuilder:
    """A build function that counts its calls."""

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


def plan_from_cache(library: Library, card: ModelCard, config: RuntimeConfig, t: Target) -> bytes:
    """The plan from the cache; raises EngineError if it would have to be built."""
    return plan_for(library, card, dataclasses.replace(config, build=False), t)


def test_built_engine_is_read_from_the_cache(
    library: Library, built: tuple[ModelCard, RuntimeConfig, Path]
) -> None:
    card, config, path = built
    before = path.stat().st_mtime_ns
    plan = plan_from_cache(library, card, config, SM89)
    assert len(plan) > 100_000 and path.read_bytes().endswith(plan)
    assert path.stat().st_mtime_ns == before
    assert path.parent.stat().st_mode & 0o077 == 0


def test_each_gpu_has_its_own_engine(
    library: Library, built: tuple[ModelCard, RuntimeConfig, Path]
) -> None:
    card, config, path = built
    plans = [plan_for(library, card, config, t) for t in (SM86, SM89, SM120)]
    assert len(set(plans)) == 3 and len(list(path.parent.glob("*.engine"))) == 3
    # The header, not the file name, identifies the GPU.
    other = EngineCache(path.parent).path(card.name, engine_key(library, card, config, SM86))
    other.write_bytes(path.read_bytes())
    assert read(other, engine_key(library, card, config, SM86))[1].startswith(
        "the file's capability is '8.9'"
    )
    assert plan_for(library, card, config, SM86) == plans[0]


def test_engine_of_an_older_onnx_is_replaced(
    library: Library,
    built: tuple[ModelCard, RuntimeConfig, Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    _, config, path = built
    old = path.read_bytes()
    card = models.save(path.parent.parent / "model", models.scatter_model(seed=1))
    plan = plan_for(library, card, config, SM89)
    assert "building the engine: the file's onnx is" in caplog.text
    assert path.read_bytes().endswith(plan) and path.read_bytes() != old
    assert list(path.parent.glob("*.engine")) == [path]
    assert plan_from_cache(library, card, config, SM89) == plan


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
def test_damaged_file_is_rebuilt(
    damage: Callable[[bytes], bytes],
    reason: str,
    library: Library,
    built: tuple[ModelCard, RuntimeConfig, Path],
) -> None:
    card, config, path = built
    path.write_bytes(damage(path.read_bytes()))
    plan, message = read(path, engine_key(library, card, config, SM89))
    assert plan is None and reason in message
    plan = plan_for(library, card, config, SM89)
    assert plan_from_cache(library, card, config, SM89) == plan


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(EngineKey)])
def test_any_difference_in_the_key_causes_a_rebuild(field: str, tmp_path: Path) -> None:
    cache, build = EngineCache(tmp_path), CountingBuilder()
    cache.get("m", KEY, build)
    cache.get("m", KEY, build)
    assert build.builds == 1
    cache.get("m", dataclasses.replace(KEY, **{field: "9.9"}), build)
    assert build.builds == 2


def test_concurrent_processes_build_only_once(
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
    outputs = [p.communicate(timeout=200)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0]
    assert sum("building the engine: no file yet" in o for o in outputs) == 1
    assert outputs[0].split()[-1] == outputs[1].split()[-1]
    assert read(path, engine_key(library, card, config, SM89))[0] is not None


def _build_slowly(folder: Path, started: Path) -> None:
    def build() -> bytes:
        started.touch()
        time.sleep(60)
        return b"never"

    EngineCache(folder).get("m", KEY, build)


def test_killed_builder_releases_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_build_slowly, args=(tmp_path, tmp_path / "started"))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert EngineCache(tmp_path).get("m", KEY, CountingBuilder()) == b"plan"


def test_failed_write_keeps_the_old_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = EngineCache(tmp_path)
    cache.get("m", KEY, CountingBuilder())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert cache.get("m", KEY, CountingBuilder(b"new"), rebuild=True) == b"new"
    assert "No space left" in caplog.text
    assert read(cache.path("m", KEY), KEY) == (b"plan", "")
    assert not list(tmp_path.glob("*.part"))


def test_unwritable_folder_disables_only_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert EngineCache(tmp_path / "file" / "cache").get("m", KEY, CountingBuilder()) == b"plan"
    assert "engines are not cached" in caplog.text


def test_failed_build_writes_no_file_and_is_not_repeated(tmp_path: Path) -> None:
    builds = []

    def build() -> bytes:
        builds.append(1)
        raise OSError("out of memory")

    with pytest.raises(OSError, match="out of memory"):
        EngineCache(tmp_path).get("m", KEY, build)
    assert len(builds) == 1 and not list(tmp_path.glob("*.engine"))
