# ruff: noqa: RUF001  (letters that look like others are what this is about)
"""Texts on which engines that are not alike differ: the fixed part of the check before a run."""

import random
from collections.abc import Sequence

_SEED = 15
_DRAWN = 200
_RUN = 3000  # characters alike in a row: more steps than lengths may show that a pattern takes many
_SPACES = " \t\n\r\v\f\x85\xa0\u1680\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u200b\ufeff"
_MARKS = "\u0301\u0308\u0327\u0338\u093f\u0e31\u20d0\u0345"
_EMOJI = ("👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️", "🫠", "👁️‍🗨️")
_SCRIPTS = (
    "The quick brown fox's jumps, don't they'LL we'Ve I'M 12345678 3.14e-10 snake_case camelCaseHTTPServer",
    "Überstraße façade naïve Ａｂｃ１２３ ﬁne ǅ İstanbul ı ſ ẞ Σίσυφος ς Ελλάδα Привет мир",
    "中文字符,标点。日本語カタカナｶﾀｶﾅ ひらがな 한국어 조합형 한글",
    "שלום עולם مرحبا بالعالم ١٢٣ لا नमस्ते दुनिया क्षि ไทยภาษา မြန်မာ ខ្មែរ",
    "e\u0301 é \u1e9b\u0323 ﬀ ² ½ ① Å Å \u2126 각 \u1100\u1161\u11a8 \u0344 \u0958 \U0001d15e",
    "\x00\x01\x1b[31m\x7f\x80\x9f \ue000\uf8ff \U000f0000\U0010ffff \ufdd0\uffff\U0001ffff \u0378 \U00013440 \ufffd",
    "\u202eabc\u202c \u2066x\u2069 \u200d\u200c \u00ad \u034f \u180e \ufe0f \U000e0001\U000e0041",
    "https://example.org/a?b=c&d=%20#e <b>x</b> {'k': [1, 2]} def f(x):\n\treturn x ** 2\r\n\r\n\r\n  $$\\frac{a}{b}$$",
    "▁ ▁▁a Ġ ĠĠa <0x0A> <0xFF> <s> </s> <unk> ## ##ing @@ Ċ",
)


def probe_texts(added_tokens: Sequence[str]) -> list[str]:
    """Returns the texts.

    Args:
      added_tokens: those of the tokenizer; they stand in some of the texts, and parts of them.
    """
    draw = random.Random(_SEED)
    texts = ["", " ", "a", "\n", *_SCRIPTS, *_EMOJI, *_MARKS]
    texts += [space * count + tail for space in _SPACES for count in (1, 2, 5) for tail in ("", "a", "\n")]
    texts += [each * _RUN + end for each in ("a", "A", " ", "\n", "1", "!", "中", "é", "\u0301") for end in ("", "b!")]
    texts += ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=_RUN)), "𝔘𝔫𝔦" * 300, "👍🏽" * 300]
    for token in added_tokens[:50]:
        texts += [
            token,
            f" {token} ",
            f"a{token}b",
            f"{token}{token}\n",
            token[:-1],
            token.upper(),
            f"\t {token}\u3000é",
        ]
    words = [word for text in _SCRIPTS for word in text.split(" ")]
    parts = [*words, *words, *_SPACES, *_MARKS, *_EMOJI, *added_tokens[:50]]
    for _ in range(_DRAWN):
        pieces = draw.choices(parts, k=draw.randint(2, 12))
        texts.append(draw.choice(("", " ", "  ")).join(pieces))
    for low, high in ((0x20, 0x2FF), (0x300, 0xD7FF), (0xE000, 0x2FFFF)):
        texts += ["".join(map(chr, draw.choices(range(low, high), k=20))) for _ in range(_DRAWN // 4)]
    return texts
