from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from multimodal_perception.configuration import UserError
from multimodal_perception.evaluation.html_report import (
    Report,
    ReportPicture,
    ReportTable,
    installed_versions,
    number,
    render,
    write_report,
)
from multimodal_perception.evaluation.report_charts import (
    bar_chart,
    histogram,
    line_chart,
    matrix_chart,
)
from multimodal_perception.evaluation.worst_pictures import WorstPictures
from multimodal_perception.visualization.error_view import encode_jpeg

MALICIOUS = '<script>alert("x")</script>$a_b$'


class Page(HTMLParser):
    """Collects the tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def report(name: str = MALICIOUS) -> Report:
    curve = ([0.0, 0.5, 1.0], [1.0, 0.8, 0.0])
    charts = [
        line_chart(name, {name: curve}, ("recall", "precision"), {"other": curve}, diagonal=True),
        bar_chart("bars", ["0-15", name], {name: [0.5, float("nan")]}, "AP"),
        histogram("times", {name: [1.0, 2.0, float("nan")]}, "ms"),
        matrix_chart("confusion", [name, "b"], ["a", name], [[3, 0], [1, 2]]),
    ]
    image = np.zeros((8, 8, 3), np.uint8)
    return Report(
        name,
        name,
        ReportTable((name, "value"), [[name, "1.0"], ["other", "-"]]),
        charts,
        [ReportTable(("a",), [[name]], name, name)],
        [ReportPicture(name, encode_jpeg(image))],
        criteria=ReportTable(("figure", "result"), [["map", "fail"]]),
        configuration=name,
        versions={name: name},
    )


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = Page(render(report()))
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), tag
    assert not re.findall(r"url\((?!#)", render(report()))
    assert any(
        a.get("http-equiv") == "Content-Security-Policy" and "default-src 'none'" in str(a)
        for _, a in page.tags
    )


def test_all_texts_are_escaped() -> None:
    text = render(report())
    assert "<script" not in text and "&lt;script&gt;" in text
    # Once in the title and heading each, in tables, captions, the configuration and the versions.
    assert text.count("&lt;script&gt;") >= 10


def test_equal_reports_are_equal_bytes(tmp_path: Path) -> None:
    first = write_report(tmp_path / "a", report()).read_bytes()
    second = write_report(tmp_path / "b", report()).read_bytes()
    assert first == second and len(first) < 2_000_000


def test_all_sections_are_linked() -> None:
    page = Page(render(report()))
    ids = {a["id"] for _, a in page.tags if a.get("id") and "sec" not in str(a["id"])}
    links = {str(a["href"])[1:] for tag, a in page.tags if tag == "a"}
    assert links == {
        "summary",
        "criteria",
        "charts",
        "tables",
        "frames",
        "configuration",
        "versions",
    }
    assert links <= ids
    assert sum(tag == "svg" for tag, _ in page.tags) == 4
    assert sum(tag == "img" for tag, _ in page.tags) == 1


def test_an_empty_report_has_a_summary_only() -> None:
    page = Page(render(Report("t", "", ReportTable(("figure",), []))))
    links = [str(a["href"]) for tag, a in page.tags if tag == "a"]
    assert links == ["#summary", "#configuration", "#versions"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"file.*index\.html"):
        write_report(tmp_path / "file", report("t"))


def test_numbers_and_versions_are_texts() -> None:
    assert [number(v) for v in (0.12345, 3, float("nan"), float("inf"), None, "x")] == [
        "0.123",
        "3",
        "-",
        "-",
        "-",
        "x",
    ]
    versions = installed_versions()
    assert versions["multimodal_perception"] and versions["numpy"] == np.__version__


def test_the_worst_pictures_are_kept_in_order_and_others_are_not_drawn() -> None:
    drawn: list[str] = []

    def add(worst: WorstPictures, error: float, name: str) -> None:
        def draw() -> np.ndarray:  # type: ignore[type-arg]
            drawn.append(name)
            return np.zeros((4, 4, 3), np.uint8)

        worst.add(error, name, draw)

    worst = WorstPictures(2)
    for error, name in ((0.1, "a"), (0.5, "b"), (0.3, "c"), (0.3, "d"), (0.05, "e"), (0.0, "f")):
        add(worst, error, name)
    add(worst, float("nan"), "g")
    assert [p.caption for p in worst.pictures()] == ["b", "c"]
    assert drawn == ["a", "b", "c"]
    none = WorstPictures(0)
    add(none, 1.0, "h")
    assert none.pictures() == [] and "h" not in drawn
