"""YAML is read whole, within bounds, or refused with the line."""

import re

import pytest
import yaml

from oddsmill.schemas.text.strict_yaml import NotYaml, parse_yaml

LAUGHS = "a0: &a0 [ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 500))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "a: 1\nb: [1, x, null, 1.5, true]\nc:\n- d: {e: f}\n",
        "a: &one {x: 1}\nb: *one\nc:\n  <<: *one\n  x: 2\n",
        '{"a": {"b": 1}, "c": {"b": 2}}',
        "1: a\n'1': b\n",
        "[" * 100 + "]" * 100,
    ],
)
def test_what_is_sound_is_what_the_library_reads(text: str):
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nbeta: 2\nseed: 3\n", "line 3: the key 'seed' stands twice, first in line 1"),
        ("a:\n- b: {c: 1,\n     c: 2}\n", "line 3: the key 'c' stands twice, first in line 2"),
        ('{"a": 1, "a": 1}', "line 1: the key 'a' stands twice, first in line 1"),
        ("yes: 1\ntrue: 2\n", "line 2: the key True stands twice, first in line 1"),
        ("? [a, b]\n: 1\n", "line 1: a key is no text or number"),
        (LAUGHS, "line 7: its aliases stand for too many values"),
        (CHAIN, "line 101: its aliases stand for too many values"),
        ("a: &x [*x]\n", "line 1: an alias stands inside what it names"),
        ("[" * 100_000, "line 1: it is nested beyond 100 levels"),
        ("- " * 5_000 + "x", "line 1: it is nested beyond 100 levels"),
    ],
)
def test_what_the_library_would_take_otherwise_or_grow_is_refused(text: str, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$") as refused:
        parse_yaml(text)
    assert not isinstance(refused.value, NotYaml)


@pytest.mark.parametrize("text", ["a: [1", "\x00", "--- 1\n--- 2", "!!python/object/apply:os.getcwd []", "a: *b"])
def test_what_is_no_yaml_is_told_apart(text: str):
    with pytest.raises(NotYaml):
        parse_yaml(text)
