"""The digests beside the files of an export and of a run's folder: no byte changes unseen."""

import hashlib
import subprocess

import pytest

from oddsmill.schemas.errors import Refused
from oddsmill.train.weights.sums import SUMS_FILE, check_sums, write_sums

FILES = {"config.json": b'{"a": 1}\n', "tokenizer/tokenizer.json": b"{}", "README.md": b"about"}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_sums(tmp_path, [tmp_path / "config.json", tmp_path / "tokenizer" / "tokenizer.json"])
    return tmp_path


def refusal(folder, **options):
    with pytest.raises(Refused) as caught:
        check_sums(folder, remedy="Fetch it again", **options)
    return str(caught.value)


def test_the_digests_are_those_of_sha256sum(folder):
    digest = hashlib.sha256(FILES["config.json"]).hexdigest()
    assert (folder / SUMS_FILE).read_text().splitlines()[0] == f"{digest}  config.json"
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS_FILE], cwd=folder, check=True)
    check_sums(folder, remedy="")


def test_each_altered_byte_of_each_file_and_of_the_digests_is_refused_by_name(folder):
    for name in ("config.json", "tokenizer/tokenizer.json", SUMS_FILE):
        path = folder / name
        whole = path.read_bytes()
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            message = refusal(folder)
            assert str(folder) in message and "Fetch it again" in message and f"remove {SUMS_FILE}" in message
            assert name in message or name == SUMS_FILE
        path.write_bytes(whole)
    check_sums(folder, remedy="")


def test_files_that_are_gone_are_named_and_those_that_are_not_read_do_not_matter(folder):
    (folder / "README.md").write_text("more about it")
    (folder / "new.txt").write_text("x")
    check_sums(folder, remedy="")
    (folder / "config.json").unlink()
    (folder / "tokenizer" / "tokenizer.json").write_text("other")
    assert "config.json, tokenizer/tokenizer.json" in refusal(folder)
    check_sums(folder, remedy="", is_read=lambda name: name == "model.safetensors")
    (folder / SUMS_FILE).unlink()
    check_sums(folder, remedy="")


@pytest.mark.parametrize("line", ["0  ../other/config.json", "0  /etc/hostname", "one", "\x00", "0" * 2**21])
def test_digests_that_are_none_are_refused_and_nothing_else_is_opened(folder, line):
    (folder / SUMS_FILE).write_text(line + "\n")
    assert f"{SUMS_FILE} is damaged" in refusal(folder)
