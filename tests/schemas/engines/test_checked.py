import random
import zlib
from array import array
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import pytest

from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.engines import fast
from oddsmill.schemas.engines.checked import CheckedEngine
from oddsmill.schemas.engines.fast import FastEngine
from oddsmill.schemas.engines.flat import FlatIds
from oddsmill.schemas.errors import RunFailed
from tests.schemas.engines.sample_tokenizers import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(write_tokenizer("gpt2", tmp_path_factory.mktemp("gpt2")))


class Counted:
    """The reference, which notes what it encodes."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self.texts = tokenizer, list[str]()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        return self._tokenizer.encode_batch(texts)

    def token_starts(self, text: str) -> list[int]:
        return self._tokenizer.token_starts(text)


class WrongEngine:
    """A fast engine that alters ids: of `alter(number of the id since the beginning)` that is true."""

    def __init__(self, tokenizer: Tokenizer, alter: Sequence[int]):
        self._engine, self._alter, self._before = FastEngine(tokenizer.content), sorted(alter), 0
        self.sums = self._engine.sums

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        flat = self._engine.encode_flat(texts)
        for place in self._alter:
            if 0 <= place - self._before < len(flat.ids):
                flat.ids[place - self._before] = (flat.ids[place - self._before] + 7) % 900
        self._before += len(flat.ids)
        return flat


def batches(count: int, *, seed: int = 0) -> list[list[str]]:
    draw = random.Random(seed)
    words = "the quick brown fox says however they'll there weren't 12 345 first + second …".split(" ")
    return [[" ".join(draw.choices(words, k=draw.randint(1, 40))) for _ in range(50)] for _ in range(count)]


def test_the_reference_encodes_the_first_texts_and_one_batch_of_many(tokenizer: Tokenizer):
    reference, share = Counted(tokenizer), 20
    engine = CheckedEngine(FastEngine(tokenizer.content), reference, prefix=None, share=share)
    all_texts = batches(200)
    for texts in all_texts:
        assert engine.encode_flat(texts) == tokenizer.encode_flat(texts)
    whole = [texts for texts in all_texts if zlib.adler32("".join(texts).encode()) % share == 0]
    assert reference.texts == all_texts[0][:16] + [text for texts in whole for text in texts]
    assert 2 <= len(whole) <= 25  # ten are expected


@pytest.mark.parametrize("place", [0, 700, 50_000, 999_999])
def test_one_wrong_id_in_a_million_ends_the_run(tokenizer: Tokenizer, place: int):
    engine = CheckedEngine(WrongEngine(tokenizer, [place]), tokenizer, prefix="")
    several, encoded = batches(5), 0
    with suppress(RunFailed):
        for number in range(2_000):
            encoded += len(engine.encode_flat(several[number % 5]).ids)
    assert encoded <= place < encoded + 10_000  # it ended at the batch of the wrong id


def test_a_token_that_is_always_split_wrongly_ends_the_run(tokenizer: Tokenizer):
    """The byte sums hold, so it is for the batches that both encode to find it."""

    class Splits(WrongEngine):
        def encode_flat(self, texts: Sequence[str]) -> FlatIds:
            flat = super().encode_flat(texts)
            whole, parts = tokenizer.encode(" quick"), [tokenizer.encode(" q")[0], *tokenizer.encode("uick")]
            ids, offsets = array("i"), [0]
            for number in range(len(texts)):
                joined = ",".join(map(str, flat.of(number)))
                altered = joined.replace(",".join(map(str, whole)), ",".join(map(str, parts)))
                ids.extend(map(int, altered.split(",")))
                offsets.append(len(ids))
            return FlatIds(ids, offsets)

    engine = CheckedEngine(Splits(tokenizer, []), tokenizer, prefix="", share=20)
    engine._is_first = False
    with pytest.raises(RunFailed, match=r"^fastokens gives other ids .* --tokenizer_engine=tokenizers, and please"):
        deque(map(engine.encode_flat, batches(200)), maxlen=0)


def test_the_message_quotes_the_place_on_one_line_that_no_terminal_obeys(tokenizer: Tokenizer):
    text = "a" * 60 + "\x1b[31m\n\u202e" + " however" * 20
    expected = tokenizer.encode(text)
    place = tokenizer.token_starts(text).index(text.index(" however") + 8)

    class Wrong(WrongEngine):
        def encode_flat(self, texts: Sequence[str]) -> FlatIds:
            flat = super().encode_flat(texts)
            flat.ids[place] = 5
            return flat

    with pytest.raises(RunFailed) as failed:
        CheckedEngine(Wrong(tokenizer, []), tokenizer, prefix="").encode_flat([text])
    message = str(failed.value)
    assert message.isprintable() and len(message) < 400 and "\\u001b[31m\\n\\u202e however however" in message
    assert f"from its token {place} on, character {text.index(' however') + 8}: [5, {expected[place + 1]}" in message


class PanicException(BaseException):
    """A panic of Rust, as its binding raises it."""


@pytest.mark.parametrize("error", [ValueError("PCRE2: match limit exceeded"), PanicException("index out of bounds")])
def test_a_text_that_the_engine_fails_on_is_left_to_the_reference(tokenizer: Tokenizer, error: BaseException):
    class Failing(WrongEngine):
        def encode_flat(self, texts: Sequence[str]) -> FlatIds:
            raise error

    engine = CheckedEngine(Failing(tokenizer, []), tokenizer, prefix="")
    texts = ["one", "", "two three"]
    assert engine.encode_flat(texts) == tokenizer.encode_flat(texts)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_is_no_matter_of_a_text_passes(tokenizer: Tokenizer, error: BaseException):
    class Failing(WrongEngine):
        def encode_flat(self, texts: Sequence[str]) -> FlatIds:
            raise error

    with pytest.raises(type(error)):
        CheckedEngine(Failing(tokenizer, []), tokenizer, prefix="").encode_flat(["one"])


def test_a_text_so_long_that_the_reference_may_refuse_it_is_encoded_by_it(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fast, "LONGEST_TEXT", 1000)
    reference = Counted(tokenizer)
    texts = [" " * 1001, "x"]
    CheckedEngine(FastEngine(tokenizer.content), reference, prefix="").encode_flat(texts)
    assert reference.texts == texts
