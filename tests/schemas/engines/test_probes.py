import unicodedata

from oddsmill.schemas.engines.probes import probe_texts


def test_the_texts_are_of_all_kinds_and_the_same_each_time():
    added = ["<|im_start|>", "</s>"]
    texts = probe_texts(added)
    assert texts == probe_texts(added) and "" in texts and max(map(len, texts)) >= 3000
    characters = {character for text in texts for character in text}
    categories = {unicodedata.category(character) for character in characters}
    # Surrogates alone are missing, which no text can hold.
    assert categories >= set(
        "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()
    )
    assert any("<|im_start|" in text and "<|im_start|>" not in text for text in texts)
    assert any(text != token and token in text for token in added for text in texts)
    "".join(texts).encode()
