"""What a template leaves out is found, and what it writes in another form is not."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import ChatPair, Notes, chat_pair
from oddsmill.pipeline.tokens.left_out import KINDS
from oddsmill.pipeline.tokens.rendering import Rendered
from oddsmill.pipeline.tokens.text_rules import OURS, TRL, TextRules
from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.drops import Dropped, DropReason

CASES = Path(__file__).parents[2] / "cases" / "06"


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def render(template: str, pair: ChatPair, rules: TextRules = OURS, **changes: Any) -> Rendered:
    return rules.render(pair, ChatTemplate(template, {"bos_token": "<s>", "eos_token": "</s>"}), config(**changes))


def turn(role: str, content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


def pair_of(*prompt: dict[str, Any], chosen: dict[str, Any] | None = None, **variables: Any) -> ChatPair:
    prompt = prompt or (turn("user", "Name a tree."),)
    answer = chosen or turn("assistant", "An oak, I think.")
    return chat_pair(list(prompt), [answer], [turn("assistant", "A rock!")], variables)


@pytest.mark.parametrize("rules", [OURS, TRL])
@pytest.mark.parametrize(
    ("row", "template", "lost"),
    [
        ("sys", "nosys", {Notes.SYSTEM_NOT_RENDERED: ["Always answer in Latin."]}),
        ("think", "r1", {Notes.REASONING_NOT_RENDERED: ["An oak is a tree.", "A stone?"]}),
        ("sys", "r1", {}),
        ("think", "nosys", {}),
    ],
)
def test_what_the_cases_lose_is_named_and_dropped_on_request(
    row: str, template: str, lost: dict[Notes, list[str]], rules: TextRules
):
    sides = json.loads((CASES / f"{row}.jsonl").read_text())
    pair = chat_pair(sides["prompt"], sides["chosen"], sides["rejected"])
    text = (CASES / f"{template}.jinja").read_text()
    rendered = render(text, pair, rules)
    assert [(part.note, part.text) for part in rendered.left_out] == [
        (note, text) for note, texts in lost.items() for text in texts
    ]
    assert [note for note in KINDS if note in rendered.notes] == list(lost)
    if lost:
        with pytest.raises(Dropped) as dropped:
            render(text, pair, rules, require_rendered=True)
        assert dropped.value.reason is DropReason.NOT_RENDERED
        assert next(iter(lost.values()))[0] in dropped.value.detail
    else:
        assert render(text, pair, rules, require_rendered=True) == rendered


def all_of(content: str = "m.content") -> str:
    return (
        "{% for m in messages %}<{{ m.role }}>{{ " + content + " }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )


CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": 'New "Y"', "days": 3}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
CALLED = (turn("user", "Is it warm?"), turn("assistant", None, tool_calls=[CALL]), turn("tool", '{"t": "5 °C\\n"}'))
CALLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ CALL }}{% endfor %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
THOUGHT = turn("assistant", "<think>\nLet me see.\n</think>\n\nAn oak, I think.")
MANY_LINES = turn("system", ' Be brief, "friend".\n\tSay 5 < 6 & é. ')
QWEN = (
    "{% for m in messages %}<{{ m.role }}>{% if '</think>' in m.content %}<think>\n\n"
    "{{ m.content.split('</think>')[0].split('<think>')[-1] | trim }}\n</think>{% endif %}"
    "{{ m.content.split('</think>')[-1] | trim }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "pair"),
    [
        (all_of(), pair_of(MANY_LINES, turn("user", " Hi "))),
        (all_of("m.content | trim"), pair_of(MANY_LINES, turn("user", " Hi "))),
        (all_of("m.content | tojson"), pair_of(MANY_LINES, turn("user", " Hi\n"))),
        (all_of("m.content | tojson | tojson"), pair_of(MANY_LINES, turn("user", "Hello\nyou"))),
        (all_of("m.content | e"), pair_of(MANY_LINES, turn("user", "Hi"))),
        (all_of("[m.content]"), pair_of(MANY_LINES, turn("user", "Hi"))),
        (all_of("m.content.split() | join(' ')"), pair_of(MANY_LINES, turn("user", "Hi\nthere  you"))),
        # the system's turn written into the last one of the user
        (
            "{% for m in messages[1:] %}<{{ m.role }}>"
            "{% if loop.index == 3 %}{{ messages[0].content }}\n{% endif %}{{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}",
            pair_of(turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hi"), turn("user", "A tree?")),
        ),
        (QWEN, pair_of(chosen=THOUGHT)),
        (all_of(), pair_of(chosen=THOUGHT)),
        (
            all_of("(m.reasoning_content or '') + m.content"),
            pair_of(chosen=turn("assistant", "Oak", reasoning="Is it?")),
        ),
        # reasoning that stands in the content too is one text
        (all_of(), pair_of(chosen=THOUGHT | {"reasoning_content": "Let me see."})),
        (
            all_of("m.content | replace('/no_think', '')"),
            pair_of(turn("system", "Be brief. /no_think"), turn("user", "Hi")),
        ),
        # calls: as an object, as text inside an object, as Python, as XML
        (CALLS.replace("CALL", "c.function | tojson"), pair_of(*CALLED, tools=[TOOL])),
        (
            CALLS.replace("CALL", "{'f': c.function.name, 'a': c.function.arguments | tojson} | tojson"),
            pair_of(*CALLED),
        ),
        (CALLS.replace("CALL", "c.function.name ~ c.function.arguments"), pair_of(*CALLED)),
        (
            CALLS.replace("CALL", "c.function.name ~ '<city>' ~ A.city ~ '</city>' ~ A.days").replace(
                "A.", "c.function.arguments."
            ),
            pair_of(*CALLED),
        ),
        (
            all_of("(documents or []) | map(attribute='text') | join + m.content"),
            pair_of(documents=[{"title": "T", "text": "Oaks are trees."}]),
        ),
        (all_of("(m.name or '') ~ ': ' ~ m.content"), pair_of(turn("user", "Hi", name="Ada"))),
    ],
)
def test_a_text_that_is_written_in_another_form_is_not_missed(template: str, pair: ChatPair):
    for rules in (OURS, TRL):
        rendered = render(template, pair, rules)
        assert rendered.left_out == ()
        assert not any(note in rendered.notes for note in KINDS)


CONTENT_OF_USER = all_of("m.content if m.role != 'system' else ''")


@pytest.mark.parametrize(
    ("template", "pair", "expected"),
    [
        # it stands elsewhere, but that is another text
        (CONTENT_OF_USER, pair_of(turn("system", "Be brief."), turn("user", "Be brief. A tree?")), "system turn"),
        (CONTENT_OF_USER, pair_of(turn("system", "A tree?"), turn("user", "A tree?")), "system turn"),
        (CONTENT_OF_USER, pair_of(turn("system", "use"), turn("user", "A tree?")), "system turn"),
        (CONTENT_OF_USER, pair_of(turn("developer", "Be brief."), turn("user", "Hi")), None),
        (
            all_of("m.content if loop.index > 1 else ''"),
            pair_of(turn("user", "Hi"), turn("assistant", "Hi"), turn("user", "Hi")),
            "text of an earlier turn",
        ),
        (all_of("m.content[:6]"), pair_of(turn("user", "Tree?")), "text of an answer"),
        (all_of("m.content.split('</think>')[-1]"), pair_of(chosen=THOUGHT), "reasoning of an answer"),
        (all_of(), pair_of(chosen=turn("assistant", "An oak.", reasoning_content="Is it?")), "reasoning of an answer"),
        (
            all_of("m.content.split('</think>')[-1] if loop.index < 3 else m.content"),
            pair_of(turn("user", "Hi"), THOUGHT, turn("user", "Another?")),
            "reasoning of an earlier turn",
        ),
        (all_of("m.content or ''"), pair_of(*CALLED), "name or argument of a call"),
        # the name of the tool is that of the call
        (CALLS.replace("CALL", "''"), pair_of(*CALLED, tools=[TOOL]), "name or argument of a call"),
        (
            CALLS.replace("CALL", "c.function | tojson").replace("if tools", "if false"),
            pair_of(*CALLED, tools=[TOOL]),
            "tool",
        ),
        (all_of(), pair_of(tools=[TOOL]), "tool"),
        (all_of(), pair_of(turn("user", "please get_weather"), tools=[TOOL]), "tool"),
        (all_of(), pair_of(tools=[{"name": "f", "parameters": {}}]), "tool"),
        (all_of(), pair_of(documents=[{"title": "T", "text": "Oaks are trees."}]), "document"),
        (all_of(), pair_of(turn("user", "Hi", name="Ada")), "name of a speaker"),
    ],
)
def test_a_text_that_is_left_out_is_named(template: str, pair: ChatPair, expected: str | None):
    rendered = render(template, pair)
    assert {KINDS[part.note] for part in rendered.left_out} == {expected} - {None}
    assert {note for note in KINDS if note in rendered.notes} == {part.note for part in rendered.left_out}


# Words that no template here spells; a marker at both ends keeps one text from standing inside another.
PLAIN = st.text(alphabet=string.ascii_letters + " \n'\"<&\\é漢", min_size=1, max_size=12)
FORMS = ("T", "T | trim", "T | tojson", "T | e", "[T]")
PARTS = {
    Notes.SYSTEM_NOT_RENDERED: "{% if m.role == 'system' %}{{ T }}{% endif %}",
    Notes.TURNS_NOT_RENDERED: "{% if m.role == 'user' %}{{ T }}{% endif %}",
    Notes.PAST_REASONING_NOT_RENDERED: "{% if m.reasoning_content and not loop.last %}{{ R }}{% endif %}",
    Notes.REASONING_NOT_RENDERED: "{% if m.reasoning_content and loop.last %}{{ R }}{% endif %}",
    Notes.TOOL_CALLS_NOT_RENDERED: "{% for c in m.tool_calls or [] %}{{ C }}{% endfor %}",
    Notes.NAMES_NOT_RENDERED: "{{ m.name or '' }}|",
}


@pytest.mark.properties
@settings(deadline=None)
@given(
    texts=st.lists(PLAIN, min_size=11, max_size=11),
    present=st.sets(st.sampled_from([*PARTS, Notes.TOOLS_NOT_RENDERED, Notes.DOCUMENTS_NOT_RENDERED])),
    dropped=st.sets(st.sampled_from([*PARTS, Notes.TOOLS_NOT_RENDERED, Notes.DOCUMENTS_NOT_RENDERED])),
    form=st.sampled_from(FORMS),
    rules=st.sampled_from([OURS, TRL]),
)
def test_no_text_vanishes_uncounted_and_none_is_missed_that_stands_there(
    texts: list[str], present: set[Notes], dropped: set[Notes], form: str, rules: TextRules
):
    """Of random messages through a template that leaves out random parts, just the parts that it left out are named."""
    system, first, past, user, call, name, tool, document, thought, chosen, rejected = (
        f"{number:02}{text}{number:02}" for number, text in enumerate(texts)
    )
    calls = [{"type": "function", "function": {"name": "run", "arguments": {"code": call}}}]
    prompt = [
        *[turn("system", system)] * (Notes.SYSTEM_NOT_RENDERED in present),
        turn("user", first, **{"name": name} if Notes.NAMES_NOT_RENDERED in present else {}),
        turn(
            "assistant",
            "so",
            **({"reasoning_content": past} if Notes.PAST_REASONING_NOT_RENDERED in present else {}),
            **({"tool_calls": calls} if Notes.TOOL_CALLS_NOT_RENDERED in present else {}),
        ),
        turn("user", user),
    ]
    thoughts = {"reasoning_content": thought} if Notes.REASONING_NOT_RENDERED in present else {}
    variables = {
        **({"tools": [{"name": tool}]} if Notes.TOOLS_NOT_RENDERED in present else {}),
        **({"documents": [{"text": document}]} if Notes.DOCUMENTS_NOT_RENDERED in present else {}),
    }
    pair = chat_pair(prompt, [turn("assistant", chosen, **thoughts)], [turn("assistant", rejected)], variables)
    written = [
        text.replace("T", form.replace("T", "m.content"))
        .replace("R", form.replace("T", "m.reasoning_content"))
        .replace("C", "c.function | tojson")
        for note, text in PARTS.items()
        if note not in dropped
    ]
    answer = "{% if m.role == 'assistant' %}{{ m.content }}{% endif %}"
    template = (
        ("" if Notes.TOOLS_NOT_RENDERED in dropped else "{{ tools | tojson }}")
        + ("" if Notes.DOCUMENTS_NOT_RENDERED in dropped else "{{ documents | tojson }}")
        + "{% for m in messages %}<{{ m.role }}>" + "".join(written) + answer + "</s>{% endfor %}"
        + "{% if add_generation_prompt %}<assistant>" + "|" * (Notes.NAMES_NOT_RENDERED not in dropped) + "{% endif %}"
    )  # fmt: skip
    try:
        rendered = render(template, pair, rules)
    except Dropped:
        assume(False)
    expected = (present | {Notes.TURNS_NOT_RENDERED}) & dropped
    assert {note for note in KINDS if note in rendered.notes} == expected


def test_what_is_left_out_is_said_wherever_somebody_looks(
    run: Callable, command: Callable, write_rows: Callable, tokenizer_folder: Path
):
    row = json.loads((CASES / "sys.jsonl").read_text())
    without = row | {"prompt": row["prompt"][1:]}
    hardly = [
        without | {"rejected": [turn("assistant", text)], "prompt": [turn("user", f"{number}?")]}
        for number, text in enumerate(["  Quercus.", "QUERCUS.", "Quercus ."])
    ]
    path = write_rows("rows.jsonl", [row, without, *hardly])
    settings: dict[str, Any] = {"chat_template": str(CASES / "nosys.jinja"), "eval_share": 0.0, "max_length": 128}
    result = run("out", path, **settings)
    counts = {name: number for name, number in result.manifest["counts"].items() if "rendered" in name and number}
    assert counts == {"system_not_rendered": 1}
    said = "1 pairs with a system turn that the chat template does not write"
    assert [line for line in result.lines if said in line] == [
        f"check      {said}; oddsmill pipeline explain shows the texts, another --chat_template may write them, "
        "--require_rendered=true drops such pairs"
    ]
    assert any("2 pairs whose sides differ in white space alone; " in line for line in result.lines)
    assert any("1 pairs whose sides differ in upper and lower case alone" in line for line in result.lines)
    command("report", result.folder)
    page = (result.folder / "report.html").read_text()
    assert '<tr class="warn"><td><code>system_not_rendered</code>' in page
    flags = [f"--source.path={path}", f"--tokenizer={tokenizer_folder}"]
    flags += [f"--{name}={value}" for name, value in settings.items()]
    assert f"check      {said}\n" in command("plan", *flags)[1]
    left_out = "left out   the system turn 'Always answer in Latin.': the chat template does not write it\n"
    explained = [command("explain", *flags, f"--row={number}")[1] for number in (0, 1, 2)]
    assert [left_out in out for out in explained] == [True, False, False]
    assert f"counted    among the {said.removeprefix('1 ')}\n" in explained[0]
    assert "counted    among" not in explained[1]
    assert "counted    among the pairs whose sides differ in white space alone\n" in explained[2]
    strict = run("strict", path, require_rendered=True, **settings)
    assert strict.manifest["ledger"]["drops"] == {"not_rendered": 1}
    assert strict.manifest["counts"]["system_not_rendered"] == 0
    assert "'Always answer in Latin.'" in strict.rejects[0]["detail"]


CALL = {"type": "function", "function": {"name": "find_tree", "arguments": {"kind": "oak"}}}


@pytest.mark.parametrize(("content", "dropped"), [("", True), (None, True), ("Let me look.", False)])
def test_an_answer_of_which_nothing_is_written_is_a_drop(content: str | None, dropped: bool):
    """Of a call that the template does not know, the end of the turn alone would be left to learn."""
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}</>{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    pair = pair_of(chosen=turn("assistant", content, tool_calls=[CALL]))
    if dropped:
        with pytest.raises(Dropped, match="template_error: the template writes nothing of chosen: no name or argument"):
            render(template, pair)
        assert render(template, pair, TRL).texts.chosen == "</>"  # TRL learns it
    else:
        assert Notes.TOOL_CALLS_NOT_RENDERED in render(template, pair).notes
