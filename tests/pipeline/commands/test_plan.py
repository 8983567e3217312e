"""`plan`: its numbers against those of real runs, and what it refuses."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline.commands.plan import RowLength, measure, prepare, row_lengths, scaled, suggest
from oddsmill.pipeline.config import DatasetSettings, SourceConfig
from oddsmill.pipeline.input.sampling import sample_rows
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer


@pytest.fixture
def rows(triples: Callable) -> list[Any]:
    """Pairs that are long enough to be cut at 64, short enough not to be at 256; two rows that are none."""
    return [
        *({**row, "prompt": row["prompt"] * (1 + index % 3)} for index, row in enumerate(triples(60))),
        {"prompt": "no answers"},
        b"broken",
    ]


@pytest.fixture
def make_config(tokenizer_folder: Path) -> Callable[..., DatasetSettings]:
    def make(path: Path, **changes: Any) -> DatasetSettings:
        settings = {"tokenizer": str(tokenizer_folder), "max_length": 64} | changes
        return DatasetSettings(source=SourceConfig(path=str(path)), **settings)

    return make


@pytest.mark.parametrize("max_length", [44, 64, 256])
@pytest.mark.parametrize("changes", [{}, {"overlong": "drop"}, {"max_completion_length": 20}, {"row_length": 90}])
def test_the_numbers_of_a_max_length_are_those_of_a_run_with_it(
    run: Callable,
    write_rows: Callable,
    rows: list[Any],
    make_config: Callable,
    max_length: int,
    changes: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
):
    path = write_rows("rows.jsonl", rows)
    base = make_config(path, eval_share=0.0, **changes)
    resolved, tokenizer = resolve_run(base), load_tokenizer(base.tokenizer)
    config = scaled(base, max_length)
    pairs, drops, _ = prepare(sample_rows(resolved.inputs, 1000).rows, tokenizer, resolved)
    assert drops == {"missing_field": 1, "unreadable": 1}
    budget = measure(pairs, tokenizer, resolved.rules, config)

    settings = {name: getattr(config, name) for name in ("max_length", "max_prompt_length", "row_length")}
    settings |= {name: value for name, value in changes.items() if name != "row_length"}
    settings |= {"eval_share": 0.0, "max_drop_share": 1.0}
    packed = run("packed", path, **settings)
    train = packed.manifest["splits"]["train"]
    cut = sum(bool(pair["truncated"]) for pair in packed.pairs(capsys))
    assert (budget.whole, budget.cut, budget.dropped) == (train["pairs"] - cut, cut, 60 - train["pairs"])
    assert budget.tokens == sum(train["tokens"].values())
    assert budget.row_length == packed.manifest["row_length"]
    # The run packs in another order, which may cost a row.
    assert abs(budget.rows_packed - train["rows"]) <= 1
    assert budget.padding_packed == pytest.approx(1 - budget.tokens / (budget.rows_packed * budget.row_length))
    single = run("single", path, packing=False, **settings).manifest["splits"]["train"]
    assert budget.padding == pytest.approx(single["padding_share"], abs=1e-6)
    assert budget.whole + budget.cut == single["rows"]


def test_proportions_are_kept_at_other_lengths(write_rows: Callable, rows: list[Any], make_config: Callable):
    base = make_config(write_rows("rows.jsonl", rows), row_length=96)
    other = scaled(base, 256)
    assert (other.max_length, other.prompt_floor, other.row_length) == (256, 128, 384)
    other = scaled(replace(base, max_prompt_length=48), 256)
    assert (other.max_length, other.prompt_floor, other.row_length) == (256, 192, 384)
    assert scaled(make_config(Path("x")), 256).row_length is None


def test_row_lengths_are_tiles_that_hold_what_they_say(write_rows: Callable, rows: list[Any], make_config: Callable):
    base = make_config(write_rows("rows.jsonl", rows), max_length=250, max_prompt_length=125)
    resolved, tokenizer = resolve_run(base), load_tokenizer(base.tokenizer)
    pairs, *_ = prepare(sample_rows(resolved.inputs, 1000).rows, tokenizer, resolved)
    candidates = row_lengths(pairs, tokenizer, OURS, base)
    assert [each.row_length for each in candidates] == [256, 384, 512, 768, 1024]
    tokens = measure(pairs, tokenizer, OURS, base).tokens
    for each in candidates:
        if not each.too_long:
            assert each.padding == pytest.approx(1 - tokens / (each.rows * each.row_length))


def test_the_suggestion_is_short_holds_all_and_is_hardly_padded():
    candidates = [
        RowLength(128, 3, 0.0, 10),
        RowLength(256, 0, 0.2, 9),
        RowLength(512, 0, 0.03, 5),
        RowLength(1024, 0, 0.02, 3),
    ]
    assert suggest(candidates).row_length == 512


def test_the_tables_scale_to_the_input_and_mark_the_setting(
    command: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path
):
    path = write_rows("rows.jsonl", [*(row | {"id": 7} for row in triples(90)), *([b"broken"] * 10)])
    arguments = ("plan", f"--source.path={path}", f"--tokenizer={tokenizer_folder}", "--max_length=100")
    arguments += ("--max_prompt_length=50",)
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert "100 rows; 100 looked at, all of them" in out
    assert "90 pairs; dropped before the length rules: 10 unreadable" in out
    assert "\nnot read   id (90 rows), of 100 rows looked at: no part of a pair\n" in out
    lines = {
        found[1]: re.findall(r"[\d,.%]+", line)
        for line in out.splitlines()
        if (found := re.match(r"│\s+(\*?\d+) │\s+\d+ │\s+\d+ │", line))
    }
    assert list(lines) == ["*100", "256", "512", "1024", "2048", "4096", "8192"]
    assert lines["256"][8] == "90"
    code, out, _ = command(*arguments, "--sample_rows=50")
    assert "100 rows; 50 looked at, spread evenly; rows and tokens are estimates for the whole input" in out
    assert re.search(r"│\s+256 │\s+128 │\s+512 │[^│]*│[^│]*│[^│]*│[^│]*│[^│]*│\s+90 │", out)  # 45 of 50, doubled


def test_nothing_is_written(command: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path):
    path = write_rows("rows.jsonl", triples(9))
    output = path.parent / "out"
    assert command("plan", f"--source.path={path}", f"--tokenizer={tokenizer_folder}", f"--output={output}")[0] == 0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--sample_rows=0"], "--sample_rows=0: must be at least 1"),
        (["--source.path=nowhere"], "nowhere: no such file"),
        (["--", "--runner=X"], "-- --runner=X: only run uses Beam; leave this out"),
        (["--sampel_rows=5"], "did you mean --sample_rows?"),
    ],
)
def test_what_cannot_be_done_is_refused(
    command: Callable,
    write_rows: Callable,
    triples: Callable,
    tokenizer_folder: Path,
    change: list[str],
    message: str,
):
    path = write_rows("rows.jsonl", triples(9))
    code, _, err = command("plan", f"--source.path={path}", f"--tokenizer={tokenizer_folder}", *change)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_rows_of_which_none_is_a_pair_are_refused(command: Callable, write_rows: Callable, tokenizer_folder: Path):
    path = write_rows("rows.jsonl", [{"prompt": "a", "chosen": "", "rejected": ""}] * 3)
    arguments = (f"--source.path={path}", f"--tokenizer={tokenizer_folder}", "--source.format=triple")
    code, _, err = command("plan", *arguments)
    assert (code, err) == (2, "refused: none of the 3 sampled rows becomes a pair (empty_answer 3)\n")
