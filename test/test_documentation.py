"""The documentation agrees with the code: rig files in it are valid, and no key or version differs."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from multimodal_perception.rig import RigFile, Sensor, parse_rig
from multimodal_perception.ros.parameters import entries
from multimodal_perception.sensor_calibration import Extrinsics, Intrinsics, RangeLimits

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def yaml_blocks(page: Path) -> list[str]:
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(body) for _, body in blocks]


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md", "docs/reference/rig.md"])
def test_rig_files_in_the_documentation_are_valid(name: str) -> None:
    blocks = [yaml.safe_load(block) for block in yaml_blocks(ROOT / name)]
    assert blocks
    for content in blocks:
        rig = content if "sensors" in content else {"name": "sensors_only", "sensors": content}
        assert parse_rig(rig, name).sensors


def test_every_rig_key_is_documented() -> None:
    page = (DOCS / "reference/rig.md").read_text()
    types = (RigFile, Sensor, Extrinsics, Intrinsics, RangeLimits)
    keys = {field.name for cls in types for field in dataclasses.fields(cls)}
    assert {key for key in keys if f"`{key}`" not in page} == set()


def test_parameters_named_in_the_documentation_exist() -> None:
    known = {entry.name for entry in entries()}
    groups = {name.rpartition(".")[0] for name in known}
    prefixes = {group.split(".")[0] for group in groups if group}
    pattern = re.compile(rf"`((?:{'|'.join(sorted(prefixes))})\.[a-z_0-9.]*[a-z0-9])(?::[^`]*)?`")
    history = DOCS / "history.md"
    named = {
        (page.name, name)
        for page in PAGES
        if page != history
        for name in pattern.findall(page.read_text())
    }
    # Names of modules and of diagnostics counts have the same form as parameters.
    other = (".py", "occupancy.ultrasonic.", "occupancy.grid.", "load.half_images")
    unknown = {
        item
        for item in named
        if item[1] not in known | groups and not any(part in item[1] for part in other)
    }
    assert unknown == set()


def test_relative_links_lead_to_files() -> None:
    names = ("model_zoo.md", "reference/parameters.md", "reference/cli.md", "reference/accepted.md")
    generated = {DOCS / name for name in names}
    broken = []
    for page in (*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if re.match(r"[a-z]+:", target):
                continue
            path = (page.parent / target).resolve()
            if not path.exists() and path not in generated:
                broken.append((page.name, target))
    assert broken == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220


def test_versions_agree() -> None:
    version = ElementTree.parse(ROOT / "package.xml").findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()
    newest = re.search(r"^(\d+\.\d+\.\d+) \(", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert newest is not None and newest[1] == version
