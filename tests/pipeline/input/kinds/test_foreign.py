"""Files that are not read are named for what they are; texts that begin like them are read."""

import bz2
import io
import lzma
import pickle
import re
import tarfile
import zipfile
import zlib

import numpy as np
import pytest

from oddsmill.pipeline.input.kinds.foreign import describe_foreign


def tar(form: int) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=form) as file:
        file.addfile(tarfile.TarInfo("rows.jsonl"), io.BytesIO())
    return archive.getvalue()


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name in names:
            file.writestr(zipfile.ZipInfo(name), b"1")  # without the time of day: workers must collect the same
    return content.getvalue()


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    return content.getvalue()


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (bz2.compress(b"{}"), "bzip2"),
        (lzma.compress(b"{}"), "xz"),
        (lzma.compress(b"{}", format=lzma.FORMAT_ALONE), "lzma"),
        (zlib.compress(b"{}"), "zlib"),
        (b"\x04\x22\x4d\x18\x64", "lz4"),
        (b"\x37\xa4\x30\xec\x01", "dictionary of zstd"),
        (tar(tarfile.USTAR_FORMAT), "tar archive; unpack"),
        (tar(tarfile.GNU_FORMAT), "tar archive"),
        (tar(tarfile.PAX_FORMAT), "tar archive"),
        (archive("rows.jsonl"), "zip archive; unpack"),
        (archive(), "zip archive"),
        (archive("archive/data.pkl", "archive/version"), "PyTorch"),
        (archive("arr_0.npy"), "NumPy arrays"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "Office file; save its table as CSV"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "7z"),
        *((pickle.dumps([{"prompt": "p"}], protocol=protocol), "pickle.*may hold code") for protocol in (2, 3, 4, 5)),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "PyTorch"),
        (npy(), "NumPy array"),
        (b'\x40\x00\x00\x00\x00\x00\x00\x00{"w": {}}', "safetensors"),
        ("[{}]".encode("utf-16-le"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ("prompt,chosen".encode("utf-16-le"), "UTF-16"),
        ("prompt,chosen".encode("utf-16-be"), "UTF-16"),
        ("{}".encode("utf-32-be"), "UTF-32"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "git-lfs pointer.*git lfs pull"),
        (b"../../.git/annex/objects/aa/bb", "git-annex"),
        (b"\n<!DOCTYPE html>\n<html>", "page of HTML"),
        (b"<HTML lang=en>", "page of HTML"),
        (b"<!-- a page -->", "page of HTML"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "XML.*download"),
    ],
)
def test_a_file_that_is_not_read_is_named(head: bytes, words: str):
    assert re.search(words, describe_foreign(head) or "")


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{}", b'        {"a": 1}', b"BZhang,b", b"PK,b", b"ORCHARD,b", b"PARENT,b", b"x,y", b"]",
        b"<html_text>,b", b"version,b\nversion https,1", b"LZIP,a", b"FEA1,b", b"Obj,b", b"0" * 1024,
        b" " * 148 + b"7" + b" " * 900,
    ],
)  # fmt: skip
def test_a_text_that_begins_like_one_is_no_foreign_file(text: bytes):
    assert describe_foreign(text) is None
