import json
import random
import zlib
from bisect import bisect
from pathlib import Path

import numpy as np
import pytest

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines.byte_sums import sum_agrees, sum_differs, sums_of_tokens
from oddsmill.schemas.engines.flat import FlatIds, flatten
from tests.schemas.engines.sample_tokenizers import SENTENCES, write_tokenizer


def loaded(kind: str, folder: Path) -> tuple[Tokenizer, np.ndarray]:
    tokenizer = Tokenizer(write_tokenizer(kind, folder))
    return tokenizer, sums_of_tokens(json.loads(tokenizer.content))


@pytest.mark.parametrize(("kind", "prefix"), [("gpt2", ""), ("o200k", ""), ("sentencepiece", " ")])
def test_the_bytes_of_the_tokens_are_those_of_the_text(kind: str, prefix: str, tmp_path: Path):
    tokenizer, sums = loaded(kind, tmp_path)
    texts = [*SENTENCES[:3], "", "\x00\x7f\x80 \U0010ffff", "a " * 50]
    flat = tokenizer.encode_flat(texts)
    assert sum_differs(texts, flat, sums, prefix) == []
    content = "".join(prefix * bool(text) + text for text in texts).encode()
    assert sum_agrees(content, zlib.adler32(content), flat.ids, sums)


def test_a_wrong_id_is_seen(tmp_path: Path):
    tokenizer, sums = loaded("gpt2", tmp_path)
    flat = tokenizer.encode_flat(SENTENCES)
    content = "".join(SENTENCES).encode()
    draw, missed, checksum = random.Random(1), 0, zlib.adler32(content)
    for _ in range(2000):
        ids = flat.ids[:]
        place = draw.randrange(len(ids))
        ids[place] = draw.choice([each for each in (draw.randrange(900), 900, -1, 10**6) if each != ids[place]])
        found = sum_differs(SENTENCES, FlatIds(ids, flat.offsets), sums, "")
        assert found in ([], [bisect(flat.offsets, place) - 1]) and bool(found) != sum_agrees(
            content, checksum, ids, sums
        )
        missed += not found
    assert missed <= 10  # tokens of the same bytes in another order


def test_texts_that_a_normalizer_alters_differ(tmp_path: Path):
    tokenizer, sums = loaded("qwen", tmp_path)
    texts = ["plain", "e\u0301", "caf\u00e9"]
    assert sum_differs(texts, flatten(tokenizer.encode_batch(texts)), sums, "") == [1]
