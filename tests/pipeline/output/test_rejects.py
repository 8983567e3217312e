import json
from pathlib import Path

from oddsmill.pipeline.output.folder import REJECTS_FOLDER
from oddsmill.pipeline.output.rejects import RejectBlocks, write_rejects
from oddsmill.schemas.drops import DropReason, Origin, Reject
from oddsmill.schemas.manifest import file_sha256

PATHS = ["data/a.jsonl", "data/b.jsonl"]


def reject(file: int, row: int, reason: DropReason = DropReason.TIE, raw: str = "{}") -> Reject:
    return Reject(Origin(file, row), reason, f"detail of {row}", raw)


def blocks_of(*rejects: Reject) -> list[tuple[int, bytes]]:
    blocks = RejectBlocks(PATHS)
    for each in rejects:
        blocks.add(each)
    return list(blocks.rest())


def test_rejects_are_written_in_the_order_of_the_source(tmp_path: Path):
    blocks = [block for _, block in (*blocks_of(reject(1, 7), reject(1, 2, raw="é")), *blocks_of(reject(1, 4)))]
    write_rejects(blocks, output=str(tmp_path), number=1, path=PATHS[1])
    (written,) = (tmp_path / REJECTS_FOLDER).iterdir()
    lines = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    assert written.name == "00001-b.jsonl.jsonl"
    assert [line["row"] for line in lines] == [2, 4, 7]
    assert lines[0] == {"file": PATHS[1], "row": 2, "reason": "tie", "detail": "detail of 2", "raw": "é"}


def test_reasons_are_counted(tmp_path: Path):
    rejects = [reject(0, 1), reject(0, 2, DropReason.EMPTY_ANSWER), reject(0, 3)]
    ((_, block),) = blocks_of(*rejects)
    counts, digests = write_rejects([block], output=str(tmp_path), number=0, path=PATHS[0])
    assert counts == {"tie": 2, "empty_answer": 1}
    assert digests == {name: file_sha256(tmp_path / name) for name in ["rejects/00000-a.jsonl.jsonl"]}


def test_each_file_has_blocks_of_its_own():
    assert sorted(file for file, _ in blocks_of(reject(1, 0), reject(0, 0), reject(1, 1))) == [0, 1]


def test_a_block_is_sent_once_it_is_large_enough():
    blocks = RejectBlocks(PATHS)
    blocks.add(reject(0, 0))
    assert not list(blocks.full())
    blocks.add(reject(0, 1, raw="x" * (5 << 20)))
    assert [file for file, _ in blocks.full()] == [0]
    assert not list(blocks.rest())


def test_a_reject_of_a_file_whose_name_is_not_utf8_is_written():
    blocks = RejectBlocks(["data/\udcff.jsonl"])
    blocks.add(reject(0, 1))
    assert len(list(blocks.rest())) == 1


def test_the_name_of_an_input_may_be_as_long_as_names_are(tmp_path: Path):
    for number, name in enumerate(("a" * 249 + ".jsonl", "é" * 127, "b.jsonl")):
        ((_, block),) = blocks_of(reject(0, 1))
        write_rejects([block], output=str(tmp_path), number=number, path=f"data/{name}")
    names = sorted(path.name for path in (tmp_path / REJECTS_FOLDER).iterdir())
    assert names == [f"00000-{'a' * 200}.jsonl", f"00001-{'é' * 100}.jsonl", "00002-b.jsonl.jsonl"]
