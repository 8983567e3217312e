from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oddsmill.schemas.chat.outline import Outline, Slot
from oddsmill.schemas.chat.sandbox import compile_template
from oddsmill.schemas.chat.tracing import compile_tracing, trace

EACH = "{% for m in messages %}[{{ m.role }}]BODY{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
# What templates do with a text without a look into it: an outline serves every other text.
FOLLOWED = [
    "{{ m.content }}",
    "{{ m['content'] | trim + eos_token }}",
    "{{ '<' + m.content + '>' ~ loop.index ~ m.content.strip('x') }}",
    "{{ m['role'] + m.get('content').rstrip() }}",
    "{% set c %}a {{ m.content }} b{% endset %}{{ c | trim }}",
    "{% generation %}{{ m.content }}{% endgeneration %}",
    "{% macro with(m) %}{{ caller(m.content) }}{% endmacro %}{% call(x) with(m) %}{{ x }}{% endcall %}",
    "{% if m.content is string and m.content is not none and m.content is defined %}{{ m.content }}{% endif %}",
    "{% if m.content is mapping or m.content is number or m.content is false %}no{% else %}{{ m.content }}{% endif %}",
    "{{ m.content is sameas none }}{{ m.content is sameas false }}{{ true is sameas m.content }}",
    "{% if m.content is iterable %}{{ m.content | default('none') }}{% endif %}",
    "{% set ns = namespace(c='', first=true) %}{% set ns.c = m.content %}{{ ns.c }}",
    "{{ (messages[0].content if loop.first else 'x') }}{{ messages[-1]['content'] }}",
    "{{ dict(c=m.content)['c'] }}{{ [m.content, 1][0] }}{{ (messages | map(attribute='content') | list)[0] }}",
    "{{ m.content ~ undefined }}{{ undefined ~ m.content }}{{ m.content ~ none }}",
    "{{ cycler(m.content, 'b').next() }}{{ joiner(m.content)() }}",
    "{% for n in messages if n.content is string %}{{ n.content }}{% endfor %}",
]
# What they ask about a text: an outline serves those that give the same answer.
ASKED = [
    "{% filter trim %} {{ m.content }} {% endfilter %}",
    "{% macro turn(text) %}({{ text }}){{ varargs[0] }}{% endmacro %}{{ turn(m.content, m.content) | trim }}",
    "{% set c = 'x' + m.content %}{{ c.strip() | trim }}|{{ (' ' + m.content + ' x ') | trim }}",
    "{% if m.content %}{{ m.content }}{% endif %}",
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}",
    "{{ 'a' if m.content.startswith('x') and not m.content.endswith('y') else m.content }}",
    "{{ m.content or 'empty' }}{{ m.content == 'x' }}{{ m.content != messages[0].content }}",
    "{{ m.content.replace('x', 'longer') }}{{ m.content.split('y') | length }}",
    "{{ (m.content | trim) == m.content }}{{ m.content is eq 'x' }}{{ m.content in ['x', 'y'] }}",
    "{{ messages | selectattr('content', 'equalto', 'x') | list | length }}{{ m.content | default('d', true) }}",
    "{{ loop.changed(m.content) }}{{ m == messages[0] }}{{ (m.content + ' ').strip() ~ 'z' }}",
]
# What looks into a text in another way: no outline serves any, or one that is right.
LOOKED_INTO = [
    "{{ m.content | length }}",
    "{{ m.content | upper }}{{ m.content.upper() }}",
    "{{ m.content[0] }}",
    "{{ m.content[1:] }}",
    "{{ m.content[:-1] ~ m.content[-1] }}",
    "{{ m.content | e }}",
    "{% autoescape true %}{{ m.content }}{% endautoescape %}",
    "{% autoescape true %}{% set c %}{{ m.content }}{% endset %}{{ c }}{% endautoescape %}",
    "{{ '<b>' | e + m.content }}{{ m.content + '<b>' | e }}",
    "{{ '<b>' | e ~ m.content }}{{ m.content in ('<b>' | e) }}",
    "{{ m.content | tojson }}",
    "{{ m | tojson }}{{ messages | tojson }}",
    "{{ m }}{{ messages }}",
    "{{ m | string }}{{ [m.content] | string }}{{ m.items() | list }}",
    "{{ '%s' % m.content }}{{ '%s' | format(m.content) }}",
    "{{ '{}'.format(m.content) }}",
    "{{ m.content * 2 }}",
    "{% for c in m.content %}{{ c }},{% endfor %}",
    "{{ {m.content: 1} }}",
    "{{ {'x': 1}[m.content] }}",
    "{{ {'x': 1}.get(m.content) }}{{ {'x': 1}[m.content] is defined }}",
    "{{ messages[m.content] }}{{ messages[m.content] is defined }}",
    "{{ m[m.content] is defined }}{{ m | attr(m.content) }}",
    "{{ m.content in {'x': 1} }}{{ m.content in 'xyz' }}",
    "{{ m.content < 'x' }}{{ m.content is lt 'x' }}",
    "{{ messages | map(attribute='content') | join('-') }}",
    "{{ messages | map(attribute='content') | map('upper') | list }}",
    "{{ messages | sort(attribute='content') | map(attribute='role') | list }}",
    "{{ messages | groupby('content') | length }}",
    "{{ messages | unique(attribute='content') | list | length }}",
    "{{ messages | map(attribute='content') | max }}",
    "{{ messages | selectattr('content', 'upper') | list | length }}",
    "{{ messages | selectattr('content', 'in', 'xyz') | list | length }}",
    "{{ m.content is upper }}{{ m.content is sameas 'x' }}{{ m.content is sameas m.content.strip() }}",
    "{{ m.content | int }}{{ m.content | float }}{{ m.content | first }}{{ m.content | list }}",
    "{{ m.content | replace('x', 'y') }}{{ m.content | indent }}{{ m.content | wordcount }}",
    "{{ m.content is filter }}{{ m.content is test }}{{ m.content is sequence }}{{ m.content is callable }}",
    "{{ m.content.unknown is defined }}{{ m.content['x'] is defined }}{{ m.content.x }}",
    "{{ m.content.split() }}{{ m.content.split('x', 1) }}{{ m.content.partition('x') }}",
    "{{ m.content.replace('x', 5) }}",
    "{{ m.content.strip(m.content) }}{{ 'xyx'.strip(m.content) }}",
    "{{ ', '.join([m.content]) }}{{ 'x'.startswith(m.content) }}{{ 'xyz'.replace('x', m.content) }}",
    "{% for i in range(m.content | length) %}{{ i }}{% endfor %}",
    "{% if m.content is string and m.content | length > 2 %}long{% endif %}",
    "{{ 5 + m.content }}",
    "{{ m.content + undefined }}",
    "{{ raise_exception(m.content) }}",
    "{{ m.content | urlencode }}{{ m.content | safe }}{{ m.content | reverse }}",
    "{{ m.content.__class__ }}{{ m.content.trace }}{{ m.content.parts }}",
    "{{ m.content.format_map({}) }}{{ m.content.isdigit() }}",
    "{{ m.content is odd }}",
    "{{ m.role is sameas 'user' }}{{ 'x' is sameas 'x' }}",
    "{{ m is sameas messages[0] }}",
    "{{ dict.fromkeys(m.content) }}{{ dict.fromkeys([m.content]) }}",
    "{{ (1, 2)[m.content] }}",
    "{{ [m.content].index('x') }}",
]
TEXTS = st.sampled_from(
    ["x</think>y", "<think>", "x", "y", "", " ", " x\n", "content", "role", "upper", "1", "xyxX ", "<é>", "5 {%"]
)
DIALOGUES = st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=2, max_size=6)
ROLES = ("user", "assistant")
VARIABLES = {"eos_token": "</s>", "add_generation_prompt": True}


class Both:
    """A template, compiled for itself and for tracing."""

    def __init__(self, body: str):
        text = EACH.replace("BODY", body)
        self._true, self._traced = compile_template(text), compile_tracing(text)

    def outline(self, contents: list[str]) -> Outline | None:
        return trace(self._traced, ROLES, contents, VARIABLES)

    def render(self, contents: list[str]) -> str | None:
        messages = [{"role": role, "content": text} for role, text in zip(ROLES, contents, strict=True)]
        with suppress(Exception):
            return self._true.render(messages=messages, **VARIABLES)
        return None


BOTH = {body: Both(body) for body in (*FOLLOWED, *ASKED, *LOOKED_INTO)}


@pytest.mark.parametrize("body", BOTH)
@settings(max_examples=20, deadline=None)
@given(dialogues=DIALOGUES)
@example([["a", "b"], ["x", "xy "], ["", " "]])
def test_an_outline_gives_what_the_template_gives_or_nothing(body: str, dialogues: list[list[str]]):
    both = BOTH[body]
    outline = both.outline(dialogues[0])
    for number, contents in enumerate(dialogues):
        if outline and outline.serves(contents):
            assert outline.fill(contents) == both.render(contents)
        else:
            assert body not in FOLLOWED and not (outline and number == 0)


def test_what_asks_about_texts_has_outlines_and_what_looks_into_them_has_none():
    assert all(BOTH[body].outline(["axb", "y"]) for body in (*FOLLOWED, *ASKED) if "replace" not in body)
    served = {body for body in LOOKED_INTO if BOTH[body].outline(["axb", "y"])}
    assert not served


def test_where_a_rendering_could_come_near_a_bound_the_template_is_asked():
    def serves(body: str, size: int) -> bool:
        outline = Both(body).outline(["a", "b"])
        return bool(outline and outline.serves(["a" * size, "b"]))

    doubled = "{% set l = [m.content] %}" + "{% set l = l + l %}" * 8
    assert serves("{{ m.content }}", 100_000)
    assert not serves("{{ m.content }}", 4_000_000)
    assert not serves("{% for i in range(50) %}{{ m.content }}{% endfor %}", 100_000)
    assert serves(doubled, 1_000)
    assert not serves(doubled, 10_000)
    assert not serves(doubled + "{% set l = l + l %}" * 12, 1)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content.replace('@', '" + "x" * 100 + "') }}",  # the sandbox asks what it would make of a text of @ alone
        "{% set l = (messages | groupby('role')) * 100 %}",
        "{% set l = [m.values()] * 100 %}",
    ],
)
def test_a_text_that_the_sandbox_refuses_has_no_outline(body: str):
    both = Both(body)
    outline, long = both.outline(["a", "b"]), ["a" * 100_000, "b"]
    assert outline and outline.serves(["a" * 100, "b"])
    assert both.render(long) is None
    assert not outline.serves(long)


def test_contents_side_by_side_have_no_text_between_them():
    both = Both("{{ m.content ~ undefined }}{{ m.content + '' }}{% set c %}{{ m.name }}{% endset %}{{ c }}")
    outline = both.outline(["a", "b"])
    assert outline
    assert outline.parts == ("[user]", Slot(0), Slot(0), "[assistant]", Slot(1), Slot(1), "[assistant]")


@pytest.mark.parametrize("join", ["ns.c ~ ns.c", "ns.c + ns.c", "joined(ns.c)", "ns.c.strip('a').strip('b')"])
def test_what_costs_nothing_of_an_empty_text_is_no_trap(join: str):
    macro = "{% macro joined(c) %}{{ c }}{{ c }}{% endmacro %}{% set ns = namespace(c=m.content) %}"
    both = Both(macro + "{% for i in range(64) %}{% set ns.c = JOIN %}{% endfor %}{{ ns.c }}".replace("JOIN", join))
    assert both.render(["", ""]) == "[user][assistant][assistant]"
    assert both.outline(["", ""]) is None


def test_questions_about_a_text_of_many_parts_are_few():
    def serves(questions: int) -> bool:
        asking = "{% for i in range(QUESTIONS) %}{{ i ~ 'x' in ns.c }}{% endfor %}".replace("QUESTIONS", str(questions))
        doubling = (
            "{% set ns = namespace(c=m.content) %}{% for i in range(12) %}{% set ns.c = ns.c ~ ns.c %}{% endfor %}"
        )
        outline = Both(doubling + asking).outline(["", ""])
        return bool(outline and outline.serves(["", ""]))

    assert [serves(1), serves(16)] == [True, False]


def test_a_template_with_many_questions_has_no_outline():
    asking = "{% for i in range(COUNT) %}{{ m.content == 'x' }}{% endfor %}"
    assert [Both(asking.replace("COUNT", count)).outline(["a", "b"]) is None for count in ("16", "17")] == [False, True]
