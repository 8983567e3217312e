"""Files that are not read, told from their first bytes and named for what they are."""

import re

AS_ROWS = "give its rows as JSON lines or Parquet"
_BINARY = rb"[\x00-\x08\x0e-\x1f\x80-\xff]"  # what no text begins with, after letters that one may begin with
# Told in this order. A pattern is matched at the first byte.
_FORMS = tuple(
    (re.compile(pattern, re.DOTALL), problem)
    for pattern, problem in (
        (rb"BZh[1-9]1AY", "is compressed by bzip2; give it as .gz or .zst"),
        (rb"\xfd7zXZ", "is compressed by xz; give it as .gz or .zst"),
        (rb"\x5d\x00\x00", "is compressed by lzma; give it as .gz or .zst"),
        (rb"\x04\x22\x4d\x18", "is compressed by lz4; give it as .gz or .zst"),
        (rb"\xff\x06\x00\x00sNaPpY", "is compressed by snappy; give it as .gz or .zst"),
        (rb"x[\x9c\xda]", "is compressed by zlib without a file's head; give it as .gz or .zst"),
        (rb"LZIP\x01", "is compressed by lzip; give it as .gz or .zst"),
        (rb"\x1f\x9d", "is compressed by compress; give it as .gz or .zst"),
        (rb"\x1f\x8b|\x28\xb5\x2f\xfd", "is compressed once more; decompress it once"),
        (rb"\x37\xa4\x30\xec", "is a dictionary of zstd, not data"),
        (rb"PK\x03\x04.{26}[^/]*/?data\.pkl|PK\x03\x04.{26}[^/]*/\.format_version", f"is a PyTorch file; {AS_ROWS}"),
        (rb"PK\x03\x04.{26}(\[Content_Types\]|_rels/|xl/)", "is an Office file; save its table as CSV"),
        (rb"PK\x03\x04.{26}[^/]*\.npy", f"is a file of NumPy arrays; {AS_ROWS}"),
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "is a zip archive; unpack it"),
        (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive; unpack it"),
        (rb"Rar!\x1a\x07", "is a rar archive; unpack it"),
        (rb"\x80[\x02-\x05]\x8a\x0a\x6c\xfc\x9c\x46", f"is a PyTorch file; {AS_ROWS}"),
        (rb"\x80[\x02-\x05]", f"is a Python pickle, which may hold code and is not read; {AS_ROWS}"),
        (rb".{3}\x00{5}\{", f"is a safetensors file, or another with a length before its JSON; {AS_ROWS}"),
        (rb"\x93NUMPY", f"is a NumPy array; {AS_ROWS}"),
        (rb"\x89HDF\r\n", f"is an HDF5 file; {AS_ROWS}"),
        (rb"SQLite format 3\x00", f"is an SQLite database; {AS_ROWS}"),
        (rb"Obj\x01", f"is an Avro file; {AS_ROWS}"),
        (rb"ORC" + _BINARY, f"is an ORC file; {AS_ROWS}"),
        (rb"FEA1\x00", "is a Feather file of version 1; save it again with a newer Arrow"),
        (rb"PARE" + _BINARY, "is an encrypted Parquet file; decrypt it"),
        (rb"\xd0\xcf\x11\xe0", "is an Office file; save its table as CSV"),
        (rb"%PDF-", f"is a PDF; {AS_ROWS}"),
        (rb"\xff\xfe|\xfe\xff|\x00\x00\xfe\xff", "is UTF-16 or UTF-32; give it as UTF-8"),
        (rb"[\[{]\x00|\x00{1,3}[\[{]|([ -~]\x00){4}|(\x00[ -~]){4}", "is UTF-16 or UTF-32; give it as UTF-8"),
        (
            rb"version https://git-lfs\.github\.com/spec/",
            "is a git-lfs pointer, not the file that it stands for; fetch that with git lfs pull",
        ),
        (rb"(\.\./)*(\.git)?/annex/objects/", "is a git-annex pointer; fetch the file with git annex get"),
        (
            rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype html|!--|(html|head|body|script)\b))",
            "is a page of HTML, perhaps an error's or a login's; download the file again, by its address for raw files",
        ),
        (rb"(\xef\xbb\xbf)?\s*<\?xml", "is XML, perhaps the error of a store; download the file again"),
    )
)
_TAR_BLOCK = 512


def describe_foreign(head: bytes) -> str | None:
    """Says what a file is that is not read here, and what to do; None where nothing tells.

    Args:
      head: its first bytes, decompressed.
    """
    for form, problem in _FORMS:
        if form.match(head):
            return problem
    return "is a tar archive; unpack it" if _is_tar(head) else None


def _is_tar(head: bytes) -> bool:
    """Tells whether the first block is the header of a tar archive: the sum of its bytes stands in it."""
    block = head[:_TAR_BLOCK]
    written = block[148:156].strip(b" \x00")
    if len(block) < _TAR_BLOCK or not re.fullmatch(rb"[0-7]+", written):
        return False
    return sum(block[:148]) + 8 * ord(" ") + sum(block[156:]) == int(written, 8)
