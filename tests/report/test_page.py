import base64
import gzip
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.report.compact import MAX_POINTS, UNUSED, run_values, script_json, shown_rows
from hwnas.report.front import write_front
from hwnas.report.gather import gather
from hwnas.report.page import render
from tests.report.example import MEMORY, OBJECTIVES, THROUGHPUT, Example, make_run

NASTY = "</script><script>alert(1)</script>\u2028<img src=x onerror=alert(2)>&amp;"

CASES = {
    "plain": Example(count=120),
    "empty front": Example(count=60, constraints=("macs<=1M",), verified=False),
    "nothing yet": Example(count=0, finished=False),
    "going on": Example(count=60, finished=False),
    "one point": Example(count=60, objectives=("accuracy",)),
    "ties": Example(count=120, ties=True),
    "unknown values": Example(count=60, unknown_share=0.6),
    "all unknown": Example(count=60, unknown_share=1.0, verified=False),
    "five objectives": Example(count=120, objectives=(*OBJECTIVES, THROUGHPUT, MEMORY)),
    "no predictor": Example(count=60, predictor=False, objectives=("accuracy", "macs"), verified=False),
    "no verification": Example(count=60, verified=False),
    "no references": Example(count=60, references=False),
    "locality": Example(count=60, space="glit-micro"),
    "stages": Example(count=60, space="vitas-twins-micro"),
    "slots": Example(count=60, space="resnas-micro"),
}


class Reader(HTMLParser):
    """The elements of a page, and the texts of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def data_of(page: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(text)


def column(text: str, kind: str) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=kind)


@pytest.mark.parametrize("example", CASES.values(), ids=CASES)
def test_every_case_is_drawn(tmp_path: Path, example: Example) -> None:
    data = gather(make_run(tmp_path / "run", example))
    page = render([data])
    (run,) = data_of(page)["runs"]
    assert len(run["front"]) == len(data.front)
    assert run["total"] == len(data.candidates) == example.count
    assert [len(column(text, "<f4")) for text in run["candidates"]["values"]] == [example.count] * len(data.metrics)
    assert all(0 <= place < len(data.front) for place in run["choice"])


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    reader = read(render([gather(make_run(tmp_path / "run", Example(count=60)))]))
    sources = [attributes[name] for _, attributes in reader.tags for name in ("src", "href") if attributes.get(name)]
    assert all(source is not None and source.startswith(("#", "data:")) for source in sources)
    assert [attributes.get("type") for tag, attributes in reader.tags if tag == "script"] == [
        None,
        "application/json",
        None,
    ]


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    plain = read(render([gather(make_run(tmp_path / "plain", Example(count=60)))]))
    page = render([gather(make_run(tmp_path / NASTY.replace("/", "-"), Example(count=60, label=NASTY)))])
    reader = read(page)
    assert "alert(1)" in page
    assert len(reader.scripts) == len(plain.scripts) == 3
    assert [tag for tag, _ in reader.tags if tag in ("script", "img")] == ["script"] * 3
    assert not any("onerror" in attributes for _, attributes in reader.tags)
    assert data_of(page)["runs"][0]["front"][3]["verdict"].endswith(NASTY)


def test_inline_data_is_escaped_for_its_place() -> None:
    text = script_json({"name": NASTY})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": NASTY}


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        script_json(float("nan"))


def test_networks_come_as_genomes(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "run", Example(count=60)))
    run = run_values(data)
    width = len(run["dimensions"])
    genomes = column(run["candidates"]["genomes"], "u1").reshape(-1, width)
    member = data.front[0]
    genome = genomes[run["front"][0]["at"]]
    heads = [
        dimension["choices"][gene]
        for dimension, gene in zip(run["dimensions"], genome.tolist(), strict=True)
        if dimension["name"] == "num_heads" and gene != UNUSED
    ]
    assert heads == [block["num_heads"] for block in member.arch["blocks"]]


def test_the_files_in_the_page_are_those_beside_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Example(count=60))
    write_front(run)
    files = run_values(gather(run))["files"]
    for kind in ("csv", "json"):
        assert gzip.decompress(base64.b64decode(files[kind])) == (run / f"front.{kind}").read_bytes()


@pytest.mark.parametrize("objectives", [OBJECTIVES, (*OBJECTIVES, THROUGHPUT, MEMORY)], ids=["three", "five"])
def test_a_page_of_5000_networks_is_at_most_6_mb(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    data = gather(make_run(tmp_path / "run", Example(count=5000, objectives=objectives)))
    assert len(render([data]).encode()) <= 6e6
    assert run_values(data)["candidates"]["count"] == 5000


@pytest.mark.slow
def test_of_very_many_networks_the_page_holds_the_front_and_a_choice(tmp_path: Path) -> None:
    data = gather(make_run(tmp_path / "run", Example(count=50_000, space="autoformer-small")))
    rows = shown_rows(data.candidates)
    assert set(np.flatnonzero(data.candidates.on_front)) <= set(rows.tolist())
    assert len(rows) == MAX_POINTS + len(data.front)
    np.testing.assert_array_equal(rows, shown_rows(data.candidates))
    assert len(render([data]).encode()) <= 6e6


def test_several_runs_are_on_one_page(tmp_path: Path) -> None:
    runs = [gather(make_run(tmp_path / name, Example(count=60, seed=seed))) for seed, name in enumerate("ab")]
    page = render(runs)
    assert [run["name"] for run in data_of(page)["runs"]] == ["a", "b"]
    assert page.count('class="run-name"') == 4
    assert page.count('class="verdict several"') == 2
