# ruff: noqa: RUF001
"""Small tokenizers of the kinds that engines must read alike, and difficult texts for them."""

import json
import random
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Split

SENTENCES = [
    "The quick brown fox's jumps weren't 1234567 better, they'll say: however HOWEVER!",
    "def add(first, second):\n\treturn first + second  # naïve façade Überstraße 中文字符 日本語 한국어 שלום مرحبا",
    "e\u0301\u0308 ☃ 👍🏽 👩‍👩‍👧 ﬁne Ⅳ ① Å ǅ İ ſ the the there then thereby other",
] * 4
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = [
    AddedToken("<|im_start|>", normalized=False, special=True),
    AddedToken("<|left|>", lstrip=True, normalized=False),
    AddedToken("<|right|>", rstrip=True, normalized=False, special=True),
    AddedToken("word", single_word=True),
    AddedToken("Norm", normalized=True),
    AddedToken("<tool_call>", normalized=True, lstrip=True, rstrip=True),
]


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    split = Split(tokenizers.Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])


def _sentencepiece() -> normalizers.Normalizer:
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


# name -> normalizer and pre-tokenizer. fastokens takes those of TAKEN.
KINDS = {
    "gpt2": (None, ByteLevel(add_prefix_space=False)),
    "prefix": (None, ByteLevel(add_prefix_space=True)),
    "qwen": (normalizers.NFC(), _split(QWEN)),
    "o200k": (None, _split(O200K)),
    "lower": (normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]), _split(QWEN)),
    "digits": (None, pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])),
    "sentencepiece": (_sentencepiece(), None),
    "few pieces": (_sentencepiece(), None),  # it lacks "<", and so fastokens takes the text <0x0A> for that token
    "nfkc": (normalizers.NFKC(), ByteLevel(add_prefix_space=False)),
    "metaspace": (None, pre_tokenizers.Metaspace()),
}
TAKEN = ("gpt2", "prefix", "qwen", "o200k", "lower", "digits", "sentencepiece")


def write_tokenizer(kind: str, folder: Path) -> Path:
    """Trains a tokenizer of a kind; returns its folder."""
    normalizer, pre_tokenizer = KINDS[kind]
    is_pieces = kind in ("sentencepiece", "few pieces", "metaspace")
    alphabet = {"few pieces": [], "sentencepiece": [*map(chr, range(33, 127)), "▁"]}.get(kind, ByteLevel.alphabet())
    core = tokenizers.Tokenizer(models.BPE(byte_fallback=is_pieces, unk_token="<unk>" if is_pieces else None))
    if normalizer is not None:
        core.normalizer = normalizer
    if pre_tokenizer is not None:
        core.pre_tokenizer = pre_tokenizer
    first = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))] if is_pieces else []
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*first, "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
        max_token_length=16,
    )
    core.train_from_iterator(SENTENCES, trainer)
    core.add_tokens(ADDED)
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.loads(core.to_str())
    # The trainer adds the fallback bytes as special tokens, which text must not match.
    settings["added_tokens"] = [token for token in settings["added_tokens"] if not token["content"].startswith("<0x")]
    (folder / "tokenizer.json").write_text(json.dumps(settings))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


_KINDS_OF_CHARACTER = (
    range(0x20, 0x7F),
    range(0x100),
    range(0x300, 0x370),
    range(0xD800),
    range(0xE000, 0x30000),
    range(0x1F300, 0x1FAFF),
    [*map(ord, " \t\n\r\v\f\x85\xa0\u1680\u2003\u2028\u2029\u3000\u200b\u200d\ufe0f\ufeff▁Ġ")],
    range(0xE0000, 0xE01F0),
)
_WORDS = [
    "'s",
    "'LL",
    "they're",
    "HTTPServer",
    "x1y22",
    "中文",
    "한글",
    "é",
    "e\u0301",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "\r\n",
    "...",
    "  ",
]


def difficult_texts(count: int, *, seed: int, added_tokens: list[str]) -> list[str]:
    """Draws texts of up to forty pieces: characters of all kinds, words of the training and added tokens."""
    draw = random.Random(seed)
    words = [*_WORDS, *" ".join(SENTENCES[:3]).split(" "), *added_tokens, *(token[1:] for token in added_tokens)]
    texts = []
    for _ in range(count):
        kind = draw.choice(_KINDS_OF_CHARACTER)
        pieces = draw.choices(words, k=draw.randint(0, 8)) + [chr(c) for c in draw.choices(kind, k=draw.randint(0, 12))]
        if draw.random() < 0.3:
            pieces += [chr(draw.choice(draw.choice(_KINDS_OF_CHARACTER)))] * draw.choice((2, 3, 50))
        draw.shuffle(pieces)
        texts.append(draw.choice(("", " ")).join(pieces))
    return texts
