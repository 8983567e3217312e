import itertools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.schemas.chat.outline import Outlines
from oddsmill.schemas.chat.sandbox import compile_template
from oddsmill.schemas.chat.template import ChatTemplate, TemplateFailed, read_templates
from oddsmill.schemas.errors import Refused, RunFailed

USER = {"role": "user", "content": "q"}
CHATML = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def render(template: str, messages: Any = (USER,), **options: Any) -> str:
    return ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"}).render(list(messages), **options)


def test_special_tokens_are_variables_and_absent_ones_are_empty():
    assert render("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}") == "<s>|</s>|"


def test_an_error_of_the_template_is_told_in_its_words():
    with pytest.raises(TemplateFailed, match="System role not supported"):
        render("{{ raise_exception('System role not supported') }}")
    with pytest.raises(TemplateFailed, match="can only concatenate str"):
        render("{{ 'a' + messages[0].content }}", [{"role": "user", "content": 5}])


def test_the_date_is_the_one_that_is_given():
    assert render("{{ strftime_now('%d %b %Y') }}", date="2026-01-31") == "31 Jan 2026"
    with pytest.raises(Refused, match="a dataset must not depend on when it was made; give --chat_date"):
        render("{{ strftime_now('%Y') }}")
    assert render("{% if strftime_now is defined %}known{% endif %}") == "known"


def test_reasoning_has_the_names_that_templates_read():
    message = {"role": "assistant", "content": "a", "reasoning": "hm"}
    assert render("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}", [message]) == "hmhm"


def test_tools_select_their_own_template():
    both = ChatTemplate({"default": "plain", "tool_use": "tools"}, {})
    assert both.render([USER]) == "plain"
    assert both.render([USER], variables={"tools": [{}]}) == "tools"
    with pytest.raises(Refused, match=r"several chat templates \(a, b\)"):
        ChatTemplate({"a": "1", "b": "2"}, {}).render([USER])


def test_the_last_message_may_be_left_open():
    template = ChatTemplate(CHATML, {"eos_token": "</s>"})
    turns = [USER, {"role": "assistant", "content": "Well, "}]
    assert template.render_open(turns) == "<|user|>q</s>\n<|assistant|>Well, "
    trimming = ChatTemplate(CHATML.replace("m['content']", "m['content'] | trim"), {"eos_token": "</s>"})
    assert trimming.render_open(turns) == "<|user|>q</s>\n<|assistant|>Well,"
    with pytest.raises(TemplateFailed, match="is not in the rendered text"):
        ChatTemplate("nothing", {}).render_open(turns)


CALL = {"type": "function", "function": {"name": "w", "arguments": {"city": "Oslo", "n": [1]}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ARGUMENTS = "{% for c in messages[0].tool_calls %}{{ c.function.arguments WAY }}{% endfor %}"


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ("| tojson", '{"city": "Oslo", "n": [1]}'),  # an object, as transformers documents it
        ("['city']", "Oslo"),
        ("", '{"city": "Oslo", "n": [1]}'),  # not Python's
        ("+ '!'", '{"city": "Oslo", "n": [1]}!'),  # a text, or the template fails
        ("if c.function.arguments is string else c.function.arguments | tojson", '{"city": "Oslo", "n": [1]}'),
    ],
)
def test_a_template_gets_the_arguments_of_a_call_in_the_form_that_it_writes(way: str, expected: str):
    assert render(ARGUMENTS.replace("WAY", way), [CALLING]) == expected


def test_a_template_that_fails_on_calls_in_every_form_is_told_by_its_first_words():
    with pytest.raises(TemplateFailed, match="dict object' has no attribute 'other"):
        render(ARGUMENTS.replace("WAY", ".other.more"), [CALLING])
    with pytest.raises(TemplateFailed, match="No roles but user"):
        render("{{ raise_exception('No roles but user') }}", [CALLING])


def test_the_null_content_of_a_call_is_no_text():
    asks = "{% if messages[0].content is none %}calls{% else %}{{ messages[0].content | trim }}{% endif %}"
    calling = CALLING | {"content": None}
    assert render("{{ messages[0].content | trim }}|", [calling]) == "|"
    assert render("{{ messages[0].content + '|' }}", [calling]) == "|"
    assert render(asks, [calling]) == "calls"
    assert render("{{ messages[0].content | trim }}|", [calling | {"content": "None"}]) == "None|"


def test_a_bare_function_gets_a_wrapper_where_the_template_needs_one():
    tools = {"tools": [CALL["function"]]}
    assert render("{{ tools[0].name }}", variables=tools) == "w"
    assert render("{{ tools[0].function.name }}", variables=tools) == "w"
    with pytest.raises(TemplateFailed):
        render("{{ tools[0].function.name }}", variables=tools, as_given=True)


def test_a_turn_of_the_developer_is_the_systems_where_the_template_does_not_write_it():
    turns = [{"role": "developer", "content": "be brief"}, USER]
    known = "{% for m in messages %}{% if m.role in ROLES %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    assert render(CHATML, turns).startswith("<|developer|>be brief")
    assert render(known.replace("ROLES", "['system', 'user']"), turns) == "<system>be brief<user>q"
    assert render(known.replace("ROLES", "['system', 'user']"), turns, as_given=True) == "<user>q"
    refuses = "{% if messages[0].role == 'developer' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    assert render(refuses, turns).startswith("<|system|>be brief")


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tool_use.jinja"])
def test_a_template_of_elsewhere_is_not_the_folders(tmp_path: Path, name: str):
    (tmp_path / "secret").write_text("hunter2")
    folder = tmp_path / "tokenizer"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(Refused, match=r"\.jinja is a link to .*secret, outside"):
        read_templates(folder, {})


@pytest.mark.parametrize("wrong", [5, True, ["x"], [{"name": "x"}], [{"name": "x", "template": 5}], {"default": 5}])
def test_templates_that_are_no_texts_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(Refused, match=rf"{tmp_path}/tokenizer_config\.json: chat_template"):
        read_templates(tmp_path, {"chat_template": wrong})


@pytest.mark.parametrize("name", ["chat_template.jinja", "additional_chat_templates/tools.jinja"])
def test_a_template_that_is_not_utf8_is_refused_by_name(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"{{ messages }}\xff")
    with pytest.raises(Refused, match=rf"{tmp_path}/{name}: cannot be read as UTF-8"):
        read_templates(tmp_path, {})


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/b", "", "..", "a\nb"])
def test_the_name_of_a_template_names_no_file_elsewhere(tmp_path: Path, name: str):
    sound = [{"name": "default", "template": "a"}, {"name": "tool_use.v2-x", "template": "b"}]
    assert read_templates(tmp_path, {"chat_template": sound}) == {"default": "a", "tool_use.v2-x": "b"}
    with pytest.raises(Refused, match="is no name for a chat template"):
        read_templates(tmp_path, {"chat_template": [*sound, {"name": name, "template": "c"}]})


# Each in the way of a known family's.
FAMILIES = {
    "trims": "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    "has the system in the first turn": """{% if messages[0]['role'] == 'system' %}
{% set system, messages = messages[0]['content'] + '\n\n', messages[1:] %}{% else %}{% set system = '' %}{% endif %}
{{ bos_token }}{% for m in messages %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{% if m['role'] == 'user' %}{{ '[INST] ' + ((system if loop.first else '') + m['content']).strip() + ' [/INST]' }}
{% else %}{{ ' ' + m['content'].strip() + eos_token }}{% endif %}{% endfor %}""",
    "reasons": """{% set ns = namespace(last=-1) %}{% for m in messages %}
{% if m.role == 'user' and m.content is string and not m.content.startswith('<result>') %}
{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}
{% set content = m.content if m.content is string else '' %}
{% if m.role == 'assistant' and '</think>' in content %}
{% set thought, content = content.split('</think>')[0].split('<think>')[-1], content.split('</think>')[-1] %}
{% if loop.index0 > ns.last %}{% set content = '<think>' + thought + '</think>' + content.lstrip('\n') %}{% endif %}
{% endif %}{{ '<|' + m.role + '|>' + content + '<|end|>\n' }}{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}""",
    "has a macro": """{% macro text(m) %}{% if m.content is string %}{{ m.content }}{% else %}
{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}{% for m in messages %}
{% if m.role == 'assistant' %}{% generation %}{{ text(m) | trim }}{% endgeneration %}
{% else %}{{ m.role ~ ': ' ~ text(m) }}{% endif %}{% endfor %}""",
    "counts": "{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}",
}
CONTENT = st.text(alphabet=st.sampled_from("ab é\n<"), max_size=6) | st.sampled_from(
    ["<think>a</think>\nb", "</think>", "<result>x", " ", ""]
)
DIALOGUE = st.builds(
    lambda system, contents: [
        *([{"role": "system", "content": system}] if system is not None else []),
        *({"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)),
    ],
    st.none() | CONTENT,
    st.lists(CONTENT, min_size=1, max_size=4),
)


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class Families:
    """Templates that are compiled once, each without an outline when a test begins."""

    def __init__(self, texts: dict[str, str]):
        self._templates = {name: (ChatTemplate(text, SPECIAL), compile_template(text)) for name, text in texts.items()}

    def check(self, dialogues: list[Any]) -> set[str]:
        """Compares with Jinja alone; returns the names of the templates of which outlines served."""
        served = set()
        for name, (template, alone) in self._templates.items():
            template._outlines = outlines = Outlines()
            for messages, generation_prompt in itertools.product(dialogues, (False, True)):
                variables = SPECIAL | {"add_generation_prompt": generation_prompt}
                expected = found = None
                with suppress(jinja2.TemplateError):
                    expected = alone.render(messages=messages, tools=None, **variables)
                with suppress(TemplateFailed):
                    found = template.render(messages, generation_prompt=generation_prompt)
                assert found == expected, name
            served |= {name} if any(shape.outlines for shape in outlines._shapes.values()) else set()
        return served


OF_FAMILIES = Families(FAMILIES)


@settings(max_examples=40, deadline=None)
@given(dialogues=st.lists(DIALOGUE, min_size=2, max_size=8))
def test_a_dialogue_is_rendered_as_by_jinja_whatever_came_before(dialogues: list[Any]):
    served = OF_FAMILIES.check([*dialogues, [USER], [{"role": "user", "content": "<result>"}]])
    assert served == FAMILIES.keys() - {"counts"}


def test_dialogues_of_real_tokenizers_are_rendered_as_by_jinja(shared: Path):
    folders = sorted((shared / "data/tokenizers").iterdir())
    configs = {folder.name: json.loads((folder / "tokenizer_config.json").read_text()) for folder in folders}
    families = Families({name: config["chat_template"] for name, config in configs.items()})
    contents = ["a", "<think>b</think>\n\nc", " d\n", "<tool_response>e</tool_response>", "\n"]
    dialogues = [
        [{"role": role, "content": content} for role, content in zip(roles.split(), some, strict=False)]
        for roles in ("user assistant", "system user assistant user assistant", "user assistant user tool")
        for some in itertools.permutations(contents)
    ]
    assert families.check(dialogues) == configs.keys()


def test_an_outline_serves_what_else_is_rendered_of_a_dialogue(monkeypatch: pytest.MonkeyPatch):
    template = ChatTemplate("{{ kind }}" + CHATML, {"eos_token": "</s>"})
    dialogues = [[{"role": "user", "content": text}] for text in ("a", "b")]
    for messages in dialogues:
        assert template.render(messages, variables={"kind": 1}) == f"1<|user|>{messages[0]['content']}</s>\n"
    monkeypatch.setattr(ChatTemplate, "_write", lambda *_: "by Jinja")
    assert template.render(dialogues[1], variables={"kind": 1}) == "1<|user|>b</s>\n"
    for other in (
        {"variables": {"kind": True}},
        {"variables": {"kind": 1}, "date": "2026-01-31"},
        {"variables": {"kind": 1}, "generation_prompt": True},
    ):
        assert template.render(dialogues[1], **other) == "by Jinja"
    assert template.render([dialogues[1][0] | {"name": "n"}], variables={"kind": 1}) == "by Jinja"
    assert template.render([{"content": "b", "role": "user"}], variables={"kind": 1}) == "by Jinja"


def test_a_wrong_outline_ends_the_run(monkeypatch: pytest.MonkeyPatch):
    template = ChatTemplate(CHATML, {"eos_token": "</s>"})
    template.render([USER])
    monkeypatch.setattr("oddsmill.schemas.chat.outline.Outline.fill", lambda *_: "wrong")
    assert template.render([USER]) == "wrong"
    with pytest.raises(RunFailed, match="please report this with the template"):
        template.render([USER | {"content": "a" * 1000}])
