"""One self-contained HTML page of an evaluation: tables, charts, pictures, configuration and versions.

The page loads nothing: styles, charts (SVG) and pictures are inside. All texts are escaped. The same
input gives the same bytes.
"""

from __future__ import annotations

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from multimodal_perception import __version__
from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.criteria import CriterionResult
from multimodal_perception.extras import import_package

TEMPLATE = Path(__file__).with_name("report_template.html")
PAGE = "index.html"
# Distributions whose versions influence the figures.
PACKAGES = ("numpy", "numba", "onnxruntime", "openvino", "torch", "opencv-python-headless")


@dataclass(frozen=True)
class ReportTable:
    """A table of texts. The first column is aligned left."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class ReportChart:
    """A chart as SVG code, see report_charts."""

    title: str
    svg: str


@dataclass(frozen=True)
class ReportPicture:
    """An encoded picture. media_type: such as image/jpeg."""

    caption: str
    data: bytes
    media_type: str = "image/jpeg"

    @property
    def data_uri(self) -> str:
        """The picture inside of a URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Report:
    """The content of a page. pictures_note: what is marked in the pictures. configuration: as text."""

    title: str
    subtitle: str
    summary: ReportTable
    charts: Sequence[ReportChart] = ()
    tables: Sequence[ReportTable] = ()
    pictures: Sequence[ReportPicture] = ()
    pictures_title: str = "Worst frames"
    pictures_note: str = ""
    criteria: ReportTable | None = None
    configuration: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def render(report: Report) -> str:
    """The page as HTML. Raises MissingPackageError if jinja2 is not installed."""
    jinja2 = import_package("jinja2")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    sections = [("Summary", "summary")]
    for name, anchor, content in (
        ("Criteria", "criteria", report.criteria),
        ("Charts", "charts", report.charts),
        ("Tables", "tables", report.tables),
        (report.pictures_title, "frames", report.pictures),
    ):
        if content:
            sections.append((name, anchor))
    sections += [("Configuration", "configuration"), ("Versions", "versions")]
    versions = ReportTable(("component", "version"), sorted(report.versions.items()))
    return template.render(report=report, sections=sections, versions=versions)


def write_report(folder: Path, report: Report) -> Path:
    """Write folder/index.html and return its path. Raises UserError."""
    path = folder / PAGE
    text = render(report)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return path


def installed_versions() -> dict[str, str]:
    """Versions of this package, Python, the operating system and the installed PACKAGES."""
    versions = {
        "multimodal_perception": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def criteria_table(results: Sequence[CriterionResult]) -> ReportTable:
    """The criteria with measured values and pass or fail."""
    rows = [
        (r.criterion.name, r.criterion.limit, number(r.value), "pass" if r.passed else "fail")
        for r in results
    ]
    return ReportTable(("figure", "required", "measured", "result"), rows)


def number(value: object, digits: int = 3) -> str:
    """A figure as text; "-" if it was not measured."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-" if value is None else str(value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.{digits}f}" if value == value and abs(value) != float("inf") else "-"
