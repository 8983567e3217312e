import time
from typing import Any

import pytest

from oddsmill.schemas.chat.metering import TooCostly
from oddsmill.schemas.chat.sandbox import compile_template
from oddsmill.schemas.errors import Refused


def nested(start: str, step: str, end: str = "") -> str:
    return f"{{% set l = {start} %}}" + f"{{% set l = {step} %}}" * 60 + f"{{{{ l{end} }}}}"


def render(template: str, **variables: Any) -> str:
    return compile_template(template).render({"messages": [{"role": "user", "content": "q"}]} | variables)


@pytest.mark.parametrize(
    "template",
    [
        # Loops and calls.
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if j < 0 %}{% endfor %}{% endfor %}",
        "{% for x in [1]|slice(10**9) %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f() %}{% for i in range(99999) %}" + "y" * 9999 + "{% endfor %}{% endmacro %}{{ f()|length }}",
        # Operators.
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * messages[0].content }}",
        "{{ ([1] * 10**9)|length }}",
        "{{ (10**9 * [messages])|length }}",
        "{{ 10**(10**9) }}",
        "{{ '%1000000000s' % '' }}",
        "{{ '%*s' % (10**9, '') }}",
        "{{ '%.*f' % (10**8, 1.5) }}",
        nested("'xx'", "l + l", "|length"),
        nested("'xx'", "l ~ l", "|length"),
        nested("[1]", "l + l", "|length"),
        nested("9", "l * l"),
        # Containers that stand many times in others.
        nested("['x']", "[l, l]"),
        nested("['x']", "[l, l]", "|tojson"),
        nested("1", "{'a': l, 'b': l}", "|string"),
        nested("1", "(l, l)"),
        nested("1", "dict(a=l, b=l)"),
        nested("[1]", "(l + l)|batch(2)|list"),
        "{% macro f(n) %}{{ f(n-1, varargs, varargs) if n else varargs }}{% endmacro %}{{ f(60, 1, 2) }}",
        "{% set l = ['x' * 9999] %}{{ dict.fromkeys(range(99999), l)|string }}",
        "{% set l = ['x' * 9999] %}{{ {}.fromkeys(range(99999), l)|string }}",
        # Filters.
        "{{ 'x'|center(10**9) }}",
        "{{ 'a\\nb'|indent(10**9) }}",
        "{{ '%1000000000s'|format('') }}",
        "{{ 1.5|round(10**9, 'ceil') }}",
        "{{ [1]|batch(10**9, 0)|list }}",
        "{{ [1]|slice(10**9)|list }}",
        "{{ messages|tojson(indent=10**9) }}",
        "{% set s = 'x' * 99999 %}{{ s|replace('x', s) }}",
        "{% set s = 'x' * 99999 %}{{ s|list|join(s) }}",
        "{% set s = 'x' * 99999 %}{{ range(99999)|join(s) }}",
        "{% set s = 'x' * 9999 %}{{ ([''] * 9999)|map('default', s, true)|join }}",
        "{{ ([[1] * 9] * 999)|sum(start=[]) }}",
        "{{ 'ab'" + "|list|string" * 40 + " }}",
        "{{ ('<' * 199999)|striptags }}",
        # Methods.
        "{{ 'x'.center(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ ('\\t' * 9999).expandtabs(10**9) }}",
        "{% set s = 'x' * 99999 %}{{ s.replace('', s) }}",
        "{% set s = 'x' * 99999 %}{{ s.join(s) }}",
        "{{ ('x' * 99999).translate({120: 'y' * 99999}) }}",
        "{{ (1).to_bytes(10**9, 'big') }}",
        "{{ '{:1000000000}'.format('') }}",
        "{{ '{:{w}}'.format('', w=10**9) }}",
        "{{ '{0:{1[0]}}'.format('', [10**9]) }}",
        "{{ '{x:1000000000}'.format_map({'x': ''}) }}",
        "{{ ('{0}' * 9999).format('x' * 9999) }}",
    ],
)
def test_what_makes_much_of_little_is_ended(template: str):
    started = time.monotonic()
    with pytest.raises(TooCostly):
        render(template)
    assert time.monotonic() - started < 30  # a second on an idle machine


@pytest.mark.parametrize(
    "template",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 3000 + "]" * 3000 + " }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
        "x" * 600_000,
    ],
)
def test_a_template_that_is_nested_too_deeply_or_too_long_is_refused(template: str):
    with pytest.raises(Refused, match=r"the chat template (does not compile|has 600,000 characters)"):
        compile_template(template)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (
            "{{ 7 % 3 }} {{ '%s-%02d' % ('a', 5) }} {{ 2**10 }} {{ [1] * 2 + [3] }}",
            "1 a-05 1024 [1, 1, 3]",
        ),
        ("{{ 'a' ~ 1 ~ none }} {{ 1 + 2 + 3 }} {{ 'a' + 'b' + 'c' }}", "a1None 6 abc"),
        ("{{ 'abc'.replace('b', 'x') }} {{ 'a,b'.split(',') }} {{ ', '.join(['a', 'b']) }}", "axc ['a', 'b'] a, b"),
        ("{{ '{} {x!r:>4}'.format(1, x='y') }} {{ 'x'.center(5) }}|{{ '7'.zfill(3) }}", "1  'y'   x  |007"),
        ("{{ [3, 1, 2]|sort|join('<') }} {{ 'a'|center(3) }} {{ [[1], [2]]|sum(start=[]) }}", "1<2<3  a  [1, 2]"),
        (
            "{{ messages|map(attribute='role')|list }} {{ messages|selectattr('x')|list }}",
            "['user'] []",
        ),
        ("{{ [1, 2, 3]|batch(2)|list }} {{ {'b': 1, 'a': [2]}|dictsort }}", "[[1, 2], [3]] [('a', [2]), ('b', 1)]"),
        ("{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        ("{% macro f(a) %}{{ a }}{{ varargs }}{{ caller() }}{% endmacro %}{% call f(1, 2) %}x{% endcall %}", "1(2,)x"),
        (
            "{{ {'a': {'b': [1, none]}}|tojson(indent=2) }}",
            '{\n  "a": {\n    "b": [\n      1,\n      null\n    ]\n  }\n}',
        ),
        ("{{ messages[0]['content'] + '\n' if messages else '' }}{{ nothing }}", "q\n"),
    ],
)
def test_what_templates_do_every_day_is_as_before(template: str, text: str):
    assert render(template) == text
