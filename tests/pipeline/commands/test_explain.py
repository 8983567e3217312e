"""`explain`: what it says of a row is what a run does with it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from oddsmill.pipeline.tokens.tokenizer import load_tokenizer


@pytest.fixture
def explain(command: Callable, tokenizer_folder: Path) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: object) -> tuple[int, str, str]:
        settings = (f"--tokenizer={tokenizer_folder}", "--max_length=64", "--max_prompt_length=32")
        return command("explain", *settings, *arguments)

    return call


def test_every_pair_of_a_run_is_explained_as_it_is_stored(
    run: Callable, write_rows: Callable, triples: Callable, explain: Callable, capsys: pytest.CaptureFixture[str]
):
    rows = [{**row, "prompt": row["prompt"] * (1 + index % 3)} for index, row in enumerate(triples(12))]
    path = write_rows("rows.jsonl", rows)
    result = run("out", path, num_shards=2, eval_share=0.3)
    pairs = result.pairs(capsys)
    tokenizer = load_tokenizer(result.folder / "tokenizer")
    assert any(pair["truncated"] for pair in pairs)
    for pair in pairs:
        number = pair["source"].rpartition(":")[2]
        code, out, err = explain(f"--source.path={path}", "--num_shards=2", "--eval_share=0.3", f"--row={number}")
        assert (code, err) == (0, "")
        assert f"\nid         {pair['id']}\n" in out
        assert f"\nsplit      {pair['split']} (by the prompt's hash)\n" in out
        assert f"\ncut        {', '.join(pair['truncated']) or 'nothing'}\n" in out
        lengths = [len(pair[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")]
        (last,) = re.findall(r"\n3 answers to what the prompt leaves +(.*)\n", out)
        assert list(map(int, last.split())) == lengths
        assert f"\nslots      {sum(lengths)} of a row's 128\n" in out
        for side, length in zip(("prompt", "chosen", "rejected"), lengths, strict=True):
            cut = ", cut" if side in pair["truncated"] else ""
            text = tokenizer.decode(pair[f"{side}_ids"]).replace("\n", "⏎\n")
            assert f"\n{side} {length}{cut}: {text}\n" in out
        (shard,) = re.findall(r"\nshard      (.*)\n", out)
        assert shard in {each["name"] for each in result.manifest["splits"][pair["split"]]["shards"]}


def test_the_layout_is_drawn_slot_by_slot(write_rows: Callable, explain: Callable):
    path = write_rows("rows.jsonl", [{"prompt": "zq", "chosen": "x", "rejected": "vw"}])
    out = explain(f"--source.path={path}", "--row=0", "--eval_share=0")[1]
    drawn = [line.split() for line in out.rpartition("slot  branch")[2].splitlines()[1:]]
    assert drawn == [
        ["0", "prompt", "0", "'<s>'", "'z'", "7"],
        ["1", "prompt", "1", "'z'", "'q'", "7"],
        ["2", "chosen", "2", "'q'", "'x'", "4"],
        ["3", "chosen", "3", "'x'", "'</s>'", "4"],
        ["4", "rejected", "2", "'q'", "'v'", "7"],
        ["5", "rejected", "3", "'v'", "'w'", "7"],
        ["6", "rejected", "4", "'w'", "'</s>'", "7"],
    ]


def test_each_length_rule_says_what_it_left(write_rows: Callable, explain: Callable):
    row = {"prompt": "p q" * 20, "chosen": "x y" * 30, "rejected": "v"}
    path = write_rows("rows.jsonl", [row])
    out = explain(f"--source.path={path}", "--row=0", "--eval_share=0", "--max_completion_length=40")[1]
    before, first, second, third = (
        [int(number) for number in line.split()[-3:]] for line in out.partition("rule  ")[2].splitlines()[1:5]
    )
    assert before[0] > 32 and before[1] > 40
    assert first == [before[0], 40, 2]
    assert second == [32, 40, 2]
    assert third == [32, 32, 2]


def test_a_merge_at_the_boundary_is_shown_with_its_tokens(write_rows: Callable, explain: Callable):
    path = write_rows("rows.jsonl", [{"prompt": "What is the capit", "chosen": "al of it", "rejected": "al, no"}])
    out = explain(f"--source.path={path}", "--row=0", "--eval_share=0")[1]
    assert re.search(r"boundary   merged: the three encodings share \d+ of the prompt's \d+ tokens", out)
    assert re.search(r"chosen goes on with ' capital'", out)


def test_special_tokens_that_stand_there_are_not_added(write_rows: Callable, explain: Callable):
    path = write_rows("rows.jsonl", [{"prompt": "<s>a", "chosen": "x</s>", "rejected": "v"}])
    out = explain(f"--source.path={path}", "--row=0", "--eval_share=0")[1]
    assert "BOS        <s> there already" in out
    assert "EOS        chosen: there already: ends with 'x' '</s>'" in out
    assert "EOS        rejected: </s> added" in out


@pytest.mark.parametrize("number", range(3))
def test_a_dropped_row_says_what_rejects_says(
    run: Callable, write_rows: Callable, triples: Callable, explain: Callable, number: int
):
    long = {"prompt": "p", "chosen": "x y " * 90, "rejected": "v"}
    path = write_rows("rows.jsonl", [b"broken", {"prompt": "p", "chosen": "c"}, long, *triples(9)])
    reject = run("out", path, eval_share=0.0, overlong="drop", max_drop_share=1.0).rejects[number]
    assert reject["row"] == number
    code, out, _ = explain(
        f"--source.path={path}", f"--row={number}", "--eval_share=0", "--overlong=drop", "--source.format=triple"
    )
    assert code == 0
    assert re.search(rf"dropped .*: {reject['reason']} \(.*\): {re.escape(reject['detail'])}", out)
    assert "\nid " not in out


def test_a_row_of_several_files_is_named_by_number_or_by_name(
    write_rows: Callable, triples: Callable, explain: Callable
):
    rows = triples(8)
    first, second = write_rows("first.jsonl", rows[:4]), write_rows("second.jsonl", [b"", *rows[4:]])
    paths = f"--source.path={json.dumps([str(first), str(second)])}"
    for arguments in (["--row=2", "--file=1"], ["--row=second.jsonl:2"], [f"--row={second}:2"]):
        code, out, _ = explain(paths, *arguments)
        assert code == 0
        assert f"row 2 of {second}" in out
        assert rows[5]["chosen"] in out
    code, _, err = explain(paths, "--row=2")
    assert code == 2
    assert f"there are 2 inputs; say which by --file: 0 {first}; 1 {second}" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--row=9"], "has no row 9, or it is a blank line"),
        (["--row=-1"], "--row=-1: give the number of a row, from 0, or FILE:NUMBER"),
        (["--row=other.jsonl:0"], "--row=other.jsonl:0: no such input; there are 0 "),
        (["--row=0", "--file=1"], "--file=1: there are 0 "),
        (["--row=rows.jsonl:0", "--file=0"], "--file=0: --row=rows.jsonl:0 names the file already"),
        ([], "--row is needed"),
        (["--row=0", "--", "--runner=X"], "only run uses Beam"),
    ],
)
def test_what_is_not_there_is_refused(
    write_rows: Callable, triples: Callable, explain: Callable, arguments: list[str], message: str
):
    code, _, err = explain(f"--source.path={write_rows('rows.jsonl', triples(9))}", *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
