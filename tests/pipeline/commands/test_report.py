"""`report`: every number against a recount, one file without resources, and text that stays text."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from oddsmill.pipeline.commands.charts import length_bias
from oddsmill.pipeline.commands.report import ReportConfig, prompts_in_both, read_split
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.drops import DropReason
from oddsmill.schemas.manifest import read_manifest


class Page(HTMLParser):
    """What stands in a page: its tags, its text, the rows of its tables."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, text: str) -> None:
        self.texts.append(text)
        if self.in_cell:
            self.rows[-1][-1] += text.strip()


@pytest.fixture
def dataset(run: Callable, write_rows: Callable, triples: Callable) -> Path:
    rows = [{**row, "prompt": row["prompt"] * (1 + index % 3)} for index, row in enumerate(triples(60))]
    rows += [rows[0], {"prompt": "no answers"}, b"<script>alert(1)</script>"]
    return run("out", write_rows("rows.jsonl", rows), eval_share=0.3, num_shards=2).folder


@pytest.fixture
def report(command: Callable) -> Callable[..., Page]:
    def call(dataset: Path, *arguments: object) -> Page:
        code, out, err = command("report", dataset, *arguments)
        assert (code, err, out) == (0, "", f"report     {dataset}/report.html\n")
        return Page((dataset / "report.html").read_text())

    return call


def pairs_of(dataset: Path, command: Callable) -> list[dict]:
    return [json.loads(line) for line in command("inspect", dataset, "--json")[1].splitlines()]


def test_the_tables_say_what_a_recount_says(dataset: Path, report: Callable, command: Callable):
    pairs, rows = pairs_of(dataset, command), {tuple(row[:2]): row for row in report(dataset).rows if row}
    manifest = json.loads((dataset / "manifest.json").read_text())
    for split in ("train", "eval"):
        own = [pair for pair in pairs if pair["split"] == split]
        tokens = sum(len(pair[f"{side}_ids"]) for pair in own for side in ("prompt", "chosen", "rejected"))
        count = len({pair["row"] for pair in own})
        cut = [sum(side in pair["truncated"] for pair in own) / len(own) for side in ("prompt", "chosen", "rejected")]
        shards = {"train": 2, "eval": 1}[split]
        assert rows[split, str(len(own))] == [
            split, str(len(own)), str(count), str(shards), f"{tokens:,}", f"{1 - tokens / (count * 128):.1%}",
            *(f"{share:.1%}" for share in cut),
        ]  # fmt: skip
    assert rows["missing_field", "a field is not there"][2:] == ["1", "1.6%"]
    assert rows["unreadable", DropReason.UNREADABLE.meaning][2:] == ["1", "1.6%"]
    checks = {row[0]: row[-1] for row in rows.values()}
    for name, number in manifest["counts"].items():
        assert checks[name] == f"{number:,}"
    assert checks["prompts_in_both_splits"] == "0"
    assert checks["exact_duplicates"] == "1"


def test_the_bars_hold_every_pair(dataset: Path, report: Callable, command: Callable):
    pairs, page = pairs_of(dataset, command), report(dataset)
    titles = [re.fullmatch(r"(-?[\d,]+)(?: to (-?[\d,]+))? (.*): ([\d,]+) (pairs|rows)", text) for text in page.texts]
    bars = [(int(t[1]), int(t[2] or t[1]), t[3], int(t[4])) for t in titles if t]
    lengths = np.array([[len(pair[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")] for pair in pairs])
    for unit, values in (
        ("tokens", lengths.ravel()),
        ("chosen \u2212 rejected, in tokens", (d := lengths[:, 1] - lengths[:, 2])[d != 0]),
    ):
        own = [bar for bar in bars if bar[2] == unit]
        assert sum(number for *_, number in own) == len(values)
        assert (min(bar[0] for bar in own), max(bar[1] for bar in own)) == (values.min(), values.max())
    assert sum(number for _, _, unit, number in bars if unit == "pairs in a row") == len(
        {(pair["split"], pair["row"]) for pair in pairs}
    )


def test_length_bias_is_that_of_each_pair():
    bias = length_bias(np.array([[1, 5, 2], [1, 2, 5], [1, 9, 2], [1, 4, 4]]))
    assert (bias.chosen_longer, bias.equal, bias.rejected_longer) == (0.5, 0.25, 0.25)
    assert (bias.mean_chosen, bias.mean_rejected, bias.median_difference) == (5, 3.25, 1.5)
    counted = {(bar.low, bar.high): bar.number for bar in bias.bars if bar.number}
    assert counted == {(-3, -3): 1, (3, 3): 1, (7, 7): 1}


def test_a_prompt_in_both_splits_is_counted(dataset: Path):
    manifest, tokenizer = read_manifest(dataset), load_tokenizer(dataset / "tokenizer")
    config = ReportConfig(dataset=str(dataset))
    contents = {name: read_split(config, manifest, name, tokenizer) for name in manifest.splits}
    assert prompts_in_both(contents) == 0
    moved = contents["eval"]._replace(prompt_ids=contents["train"].prompt_ids[:1])
    assert prompts_in_both(contents | {"eval": moved}) == 1
    assert prompts_in_both(contents | {"eval": moved._replace(prompt_ids=None)}) is None


def test_text_of_the_data_stays_text(
    run: Callable, write_rows: Callable, triples: Callable, report: Callable, command: Callable
):
    evil = '</div><script>alert("x")</script><img src="http://example.org/x.png">&amp;'
    rows = [{**row, "chosen": evil + row["chosen"]} for row in triples(9)]
    rows[0] |= {evil: 1}
    rows[1] |= {side: "\x1b[2J\x9b\u202e\r" + rows[1][side] for side in ("prompt", "chosen", "rejected")}
    rows[2]["prompt"] = "\x1b]52;c;aGk=\x07\nok  all is well"
    rows += [{"prompt": "p", "chosen": [evil], "rejected": "r"}]
    folder = run("evil", write_rows("<img src=x>.jsonl", rows), max_length=512).folder
    page = report(folder, "--num_rows=5")
    assert not {tag for tag, _ in page.tags} & {"s", "script", "img", "link", "iframe", "object"}
    assert evil in "".join(page.texts)
    assert [evil, "1"] in page.rows
    obeyed = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
    assert not obeyed.search("".join(page.texts))
    settings = (f"--source.path={folder.parent}/<img src=x>.jsonl", f"--tokenizer={folder}/tokenizer")
    for arguments in (
        ("inspect", folder, "--num_rows=20"), ("plan", *settings), ("explain", *settings, "--row=1"),
        ("explain", *settings, "--row=2"), ("explain", *settings, "--row=9"),
    ):  # fmt: skip
        code, out, err = command(*arguments)
        assert code == 0 and not obeyed.search(out + err) and "\nok " not in out


def test_the_page_needs_nothing_from_elsewhere(dataset: Path, report: Callable):
    page = report(dataset)
    text = (dataset / "report.html").read_text()
    assert not [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert not re.search(r"url\(|@import|https?://", text)
    policy = next(tag["content"] for name, tag in page.tags if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_sample_rows_are_shown_token_by_token(dataset: Path, report: Callable, command: Callable):
    page = report(dataset, "--num_rows=1")
    pairs = [pair for pair in pairs_of(dataset, command) if pair["row"] == 0]
    pairs.sort(key=lambda pair: pair["split"], reverse=True)  # train first
    ids = [int(tag["title"]) for name, tag in page.tags if name == "span" and "title" in tag]
    assert ids == [
        token for pair in pairs for side in ("prompt", "chosen", "rejected") for token in pair[f"{side}_ids"]
    ]
    assert all(pair["id"] in page.texts for pair in pairs)


def test_a_folder_alone_is_enough(dataset: Path, report: Callable, tmp_path: Path):
    for name in ("rejects", "provenance", "run.json"):
        path = dataset / name
        for file in path.iterdir() if path.is_dir() else ():
            file.unlink()
        path.rmdir() if path.is_dir() else path.unlink()
    rows = [row for row in report(dataset).rows if row]
    assert ["prompts_in_both_splits", "not known"] in [[row[0], row[-1]] for row in rows]
    assert "missing_field" in [row[0] for row in rows]


def test_another_file_can_be_written_and_a_rerun_removes_ours(
    dataset: Path,
    command: Callable,
    tmp_path: Path,
    report: Callable,
    run: Callable,
    write_rows: Callable,
    triples: Callable,
):
    assert command("report", dataset, f"--out={tmp_path}/here.html")[1] == f"report     {tmp_path}/here.html\n"
    assert (tmp_path / "here.html").is_file()
    assert not (dataset / "report.html").exists()
    report(dataset)
    run("out", write_rows("others.jsonl", triples(9)), overwrite=True)
    assert not (dataset / "report.html").exists()


def test_what_cannot_be_done_is_refused(dataset: Path, command: Callable, tmp_path: Path):
    for arguments, message in (
        ([tmp_path / "nowhere"], "no such folder"),
        ([dataset, "--num_rows=-1"], "must not be negative"),
        ([dataset, "--out=/proc/page.html"], "/proc"),
    ):
        code, _, err = command("report", *arguments)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    rejects = next((dataset / "rejects").iterdir())
    whole = rejects.read_bytes()
    rejects.write_bytes(b"{\n" + whole)
    code, _, err = command("report", dataset)
    assert code == 2
    assert f"Run oddsmill pipeline verify {dataset}" in err
    rejects.write_bytes(whole)
    (dataset / "train-00000-of-00002.arrayrecord").write_bytes(b"")
    code, _, err = command("report", dataset)
    assert code == 2
    assert f"Run oddsmill pipeline verify {dataset}" in err
