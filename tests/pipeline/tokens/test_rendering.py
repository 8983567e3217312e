import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import ChatPair, Notes, PairIds, PreferencePair, chat_pair
from oddsmill.pipeline.tokens.length_rules import shorter_prompts
from oddsmill.pipeline.tokens.rendering import check_rendering, render_pair
from oddsmill.pipeline.tokens.text_rules import OURS
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.outline import Outlines
from oddsmill.schemas.chat.template import ChatTemplate
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped, DropReason
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.record import Truncated

HEADER = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + eos_token + '\n' }}{% endfor %}"
CHAT = HEADER + "{% if add_generation_prompt %}[assistant]{% endif %}"
THINKING = HEADER + "{% if add_generation_prompt %}[assistant]<think>{% endif %}"


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pair_of(*prompt: tuple[str, str], chosen: str = "yes", rejected: str = "no", **variables: Any) -> ChatPair:
    prompt = prompt or (("user", "q"),)
    sides = ([turn("assistant", chosen)], [turn("assistant", rejected)])
    return chat_pair([turn(*message) for message in prompt], *sides, variables)


def render(template: str, pair: ChatPair | None = None, **changes: Any) -> Any:
    return render_pair(pair or pair_of(), ChatTemplate(template, {"eos_token": "</s>"}), config(**changes))


def test_the_prompt_holds_the_generation_prompt_and_the_answers_what_follows():
    texts, notes = render(CHAT, pair_of(("system", "be brief"), ("user", "q")))[:2]
    assert texts == ("[system]be brief</s>\n[user]q</s>\n[assistant]", "yes</s>\n", "no</s>\n")
    assert not notes


def test_answers_that_begin_alike_lose_nothing_to_the_prompt():
    texts = render(CHAT, pair_of(chosen="The capital is Paris", rejected="The capital is Prague")).texts
    assert texts.chosen == "The capital is Paris</s>\n"


def test_a_generation_prompt_that_the_dialogue_does_not_repeat_ends_the_prompt_at_the_turn():
    texts, notes = render(THINKING)[:2]
    assert texts == ("[user]q</s>\n", "[assistant]yes</s>\n", "[assistant]no</s>\n")
    assert notes is Notes.SPLIT_AT_TURN


@pytest.mark.parametrize(
    ("template", "pair", "reason"),
    [
        ("{{ messages | length }}{{ messages[-1].content }}", pair_of(), DropReason.TEMPLATE_NOT_PREFIX),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('x') }}{% endif %}", None, DropReason.TEMPLATE_ERROR),
        (CHAT.replace("m['content']", "m['content'] | trim"), pair_of(rejected=" yes"), DropReason.IDENTICAL_ANSWERS),
        ("{{ messages[-1].content if messages[1:] else '' }}", pair_of(), DropReason.TEMPLATE_ERROR),
    ],
)
def test_what_cannot_be_rendered_is_dropped_and_never_corrupted(
    template: str, pair: ChatPair | None, reason: DropReason
):
    with pytest.raises(Dropped) as dropped:
        render(template, pair or pair_of(("system", "be brief"), ("user", "q")))
    assert dropped.value.reason is reason


def test_variables_of_the_settings_and_of_the_row_reach_the_template():
    template = "{{ kind }}{{ tools }}" + CHAT
    prompt = render(template, chat_template_kwargs={"kind": "a"}).texts.prompt
    assert prompt.startswith("aNone[user]")
    prompt = render(template, pair_of(kind="b", tools=[1]), chat_template_kwargs={"kind": "a"}).texts.prompt
    assert prompt.startswith("b[1][user]")


def test_messages_need_a_template_and_a_template_messages():
    with pytest.raises(Refused, match=r"no chat template to render them; give one by --chat_template=FILE\.jinja"):
        check_rendering([pair_of()], None, config())
    texts = [PreferencePair("p", "c", "r")]
    for setting in ({"chat_template": CHAT}, {"chat_template_kwargs": {"a": 1}}, {"chat_date": "2026-01-31"}):
        with pytest.raises(Refused, match="has no effect, since the rows are texts"):
            check_rendering(texts, None, config(**setting))
    with pytest.raises(Refused, match="the chat template writes no date"):
        check_rendering([pair_of()], ChatTemplate(CHAT, {}), config(chat_date="2026-01-31"))
    with pytest.raises(Refused, match="the chat template does not read 'enable_thinking'"):
        check_rendering([pair_of()], ChatTemplate(CHAT, {}), config(chat_template_kwargs={"enable_thinking": False}))
    check_rendering([pair_of()], ChatTemplate("{{ tone }}" + CHAT, {}), config(chat_template_kwargs={"tone": 1}))
    check_rendering([pair_of()], ChatTemplate(CHAT, {}), config())


def test_a_template_that_costs_too_much_drops_its_row_and_on_every_row_ends_the_run_at_the_sample():
    costly = "{{ 'x' * 10 ** 9 }}"
    with pytest.raises(Dropped, match="template_error: the chat template would cost too much"):
        render(costly)
    with pytest.raises(Refused, match=r"would cost too much.*on 3 of the first rows; give another --chat_template"):
        check_rendering([pair_of()] * 9, ChatTemplate(costly, {}), config())
    of_one_row = "{% if wide %}" + costly + "{% endif %}" + CHAT
    check_rendering([pair_of(wide=True), pair_of()], ChatTemplate(of_one_row, {}), config())


def test_a_variable_of_a_row_that_the_template_does_not_read_is_counted():
    assert render("{{ tone }}" + CHAT, pair_of(tone="kind")).notes == Notes(0)
    assert render(CHAT, pair_of(tone="kind")).notes == Notes.VARIABLES_NOT_READ


def test_a_shorter_prompt_keeps_the_system_and_begins_with_the_user():
    turns = [turn(role, role[0] + str(n)) for n, role in enumerate(("system", "user", "assistant", "tool", "user"))]
    assert shorter_prompts(turns) == [[turns[0], turns[4]]]
    assert shorter_prompts(turns[:2]) == []


@pytest.fixture(scope="session")
def chat_tokenizers(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Two tokenizers, with BOS and without, whose templates write EOS and a line break after a turn."""
    folder = tmp_path_factory.mktemp("chat")
    return {
        "bos": load_tokenizer(make_tokenizer(folder / "bos", chat_template="{{ bos_token }}" + CHAT)),
        "no_bos": load_tokenizer(make_tokenizer(folder / "none", chat_template=THINKING, bos_token=None)),
    }


LONG = (
    ("system", "s"),
    ("user", "a" * 30),
    ("assistant", "b" * 30),
    ("user", "c" * 30),
    ("assistant", "d"),
    ("user", "e"),
)


def tokenized(tokenizer: Tokenizer, pair: ChatPair, **changes: Any) -> PairIds | Dropped:
    (ids,) = tokenize_batch([pair], tokenizer, OURS, config(**changes))
    return ids


def test_a_long_prompt_loses_its_oldest_turns_and_no_more_than_it_must(chat_tokenizers: dict):
    tokenizer = chat_tokenizers["bos"]
    whole = tokenized(tokenizer, pair_of(*LONG))
    assert isinstance(whole, PairIds)
    answer = max(len(whole.chosen), len(whole.rejected))
    shorter = {
        length: tokenized(tokenizer, pair_of(*LONG), max_length=length, max_prompt_length=1)
        for length in (len(whole.prompt) + answer, len(whole.prompt) + answer - 1, 50)
    }
    texts = [tokenizer.decode(ids.prompt) for ids in shorter.values()]
    turns = [f"[{role}]{text}</s>\n" for role, text in LONG]
    assert texts[0] == "<s>" + "".join(turns) + "[assistant]"
    assert texts[1] == "<s>" + turns[0] + "".join(turns[3:]) + "[assistant]"
    assert texts[2] == "<s>" + turns[0] + turns[5] + "[assistant]"
    assert [ids.notes for ids in shorter.values()] == [Notes(0), Notes.TURNS_DROPPED, Notes.TURNS_DROPPED]
    assert [ids.truncated.names() for ids in shorter.values()] == [[], ["prompt"], ["prompt"]]


def test_of_many_turns_only_those_are_taken_that_must_be(chat_tokenizers: dict):
    tokenizer = chat_tokenizers["bos"]
    turns = [turn for number in range(6) for turn in (("user", f"q{number}"), ("assistant", "ok"))][:-1]
    whole = tokenized(tokenizer, pair_of(*turns))
    assert isinstance(whole, PairIds)
    longest = len(whole.prompt) + max(len(whole.chosen), len(whole.rejected))
    ids = tokenized(tokenizer, pair_of(*turns), max_length=longest - 1, max_prompt_length=1)
    assert isinstance(ids, PairIds)
    assert tokenizer.decode(ids.prompt).startswith("<s>[user]q1</s>")


@pytest.mark.parametrize(("side", "kept"), [("keep_end", "6789"), ("keep_start", "0123")])
def test_a_last_turn_that_is_too_long_loses_text_and_no_token_of_the_template(
    chat_tokenizers: dict, side: str, kept: str
):
    tokenizer = chat_tokenizers["bos"]
    prompt = "<s>[system]be brief</s>\n[user]{}</s>\n[assistant]"
    pair = pair_of(("system", "be brief"), ("user", "old"), ("assistant", "old"), ("user", "0123456789"))
    fitting = tokenized(tokenizer, pair_of(("system", "be brief"), ("user", kept)))
    assert isinstance(fitting, PairIds)
    room = len(fitting.prompt) + max(len(fitting.chosen), len(fitting.rejected))
    ids = tokenized(tokenizer, pair, max_length=room, max_prompt_length=1, truncation_side=side)
    assert isinstance(ids, PairIds)
    assert tokenizer.decode(ids.prompt) == prompt.format(kept)
    assert ids.notes == Notes.TURNS_DROPPED | Notes.TURN_CUT
    assert ids.truncated is Truncated.PROMPT


def test_of_a_last_turn_with_a_tools_answer_the_longest_text_is_cut(chat_tokenizers: dict):
    pair = pair_of(("user", "look it up"), ("assistant", "I do"), ("tool", "z" * 200))
    ids = tokenized(chat_tokenizers["bos"], pair, max_length=80, max_prompt_length=1)
    assert isinstance(ids, PairIds)
    text = chat_tokenizers["bos"].decode(ids.prompt)
    assert text.startswith("<s>[user]look it up</s>\n[assistant]I do</s>\n[tool]zzz")
    assert text.endswith("zzz</s>\n[assistant]")


def test_a_dialogue_whose_template_alone_is_too_long_is_dropped(chat_tokenizers: dict):
    pair = pair_of(("system", "s" * 60), ("user", "hello"))
    ids = tokenized(chat_tokenizers["bos"], pair, max_length=50, max_prompt_length=1)
    assert isinstance(ids, Dropped)
    assert ids.reason is DropReason.PROMPT_TOO_LONG
    assert "in the turn of the user does not make it fit" in ids.detail


def test_no_turn_is_taken_where_what_is_overlong_is_dropped(chat_tokenizers: dict):
    ids = tokenized(chat_tokenizers["bos"], pair_of(*LONG), max_length=90, max_prompt_length=1, overlong="drop")
    assert isinstance(ids, Dropped)
    assert ids.reason is DropReason.PROMPT_TOO_LONG


WORDS = st.text(alphabet=st.sampled_from(string.ascii_lowercase[:4] + " \n.é漢👍"), min_size=1, max_size=20).filter(
    str.strip
)


@pytest.mark.properties
@settings(deadline=None)
@given(
    name=st.sampled_from(["bos", "no_bos"]),
    system=st.none() | WORDS,
    users=st.lists(WORDS, min_size=1, max_size=4),
    answers=st.tuples(WORDS, WORDS),
    max_length=st.integers(2, 120),
    max_prompt_length=st.none() | st.integers(1, 130),
    max_completion_length=st.none() | st.integers(1, 30),
    truncation_side=st.sampled_from(["keep_end", "keep_start"]),
    overlong=st.sampled_from(["truncate", "drop"]),
    row_length=st.none() | st.integers(120, 300),
)
def test_what_holds_of_every_chat(
    chat_tokenizers: dict, name: str, system: str | None, users: list[str], answers: tuple[str, str], **limits: Any
):
    tokenizer = chat_tokenizers[name]
    prompt = [("system", system)] * (system is not None)
    for number, text in enumerate(users):
        prompt += [("assistant", "ok")] * (number > 0) + [("user", text)]
    pair = pair_of(*prompt, chosen=answers[0], rejected=answers[1])
    rules = config(**limits)
    ids = tokenized(tokenizer, pair, **limits)
    if isinstance(ids, Dropped):
        reasons = {DropReason.PROMPT_TOO_LONG}
        reasons |= {DropReason.PAIR_TOO_LONG} if rules.row_length else set()
        reasons |= {DropReason.ANSWER_TOO_LONG} if rules.overlong == "drop" else set()
        # short limits may cut the answers to what they have in common
        reasons |= {DropReason.IDENTICAL_ANSWERS} if answers[0][0] == answers[1][0] or name == "no_bos" else set()
        assert ids.reason in reasons
        return
    assert ids.chosen != ids.rejected
    assert ids.prompt.count(1) == (name == "bos")
    assert len(ids.prompt) + len(ids.chosen) + len(ids.rejected) <= rules.slots
    rendered = render_pair(pair, tokenizer.chat_template, rules).texts
    for flag, answer, text in (
        (Truncated.CHOSEN, ids.chosen, rendered.chosen),
        (Truncated.REJECTED, ids.rejected, rendered.rejected),
    ):
        assert 1 <= len(answer) <= rules.max_length - len(ids.prompt)
        assert rules.max_completion_length is None or len(answer) <= rules.max_completion_length
        if flag not in ids.truncated:
            assert answer.count(tokenizer.eos_id) == 1
            assert tokenizer.decode(answer).endswith(text)
            if Truncated.PROMPT not in ids.truncated:
                assert tokenizer.decode(ids.prompt + answer) == rendered.prompt + text
    if Notes.TURNS_DROPPED in ids.notes:
        assert Truncated.PROMPT in ids.truncated
        assert len(users) > 1
    if Truncated.PROMPT in ids.truncated:
        head = "<s>" * (name == "bos") + f"[system]{system}</s>\n" * (system is not None) + "[user]"
        text = tokenizer.decode(ids.prompt)
        assert text.startswith(head)
        assert text.endswith("</s>\n" + "[assistant]" * (name == "bos"))
        assert Notes.TURN_CUT in ids.notes or f"[user]{users[-1]}</s>" in text


# Templates of which outlines say all, and such as leave out, move, repeat or hide what messages hold.
IN_MANY_WAYS = [
    HEADER + "{% if add_generation_prompt %}[assistant]{% endif %}",
    HEADER.replace("m['content']", "m['content'] | trim") + "{% if add_generation_prompt %}[{% endif %}",
    THINKING,
    HEADER.replace("']'", "''").replace("eos_token", "'x'") + "{% if add_generation_prompt %}[assistant{% endif %}",
    HEADER.replace("m['content']", "m['content'].strip('ab')") + "{% if add_generation_prompt %}[assistant]{% endif %}",
    "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}",
    "{% for m in messages | reverse %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}",
    "{{ messages[0].content }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if '/think' in m.content %}!{% else %}<{{ m.content }}>{% endif %}{% endfor %}",
    "{% for m in messages %}<{{ m.content if m.content | trim else 'none' }}>{% endfor %}",
    "{% for m in messages %}{{ m.content ~ m.nothing }}{% endfor %}",
]


class WithoutOutlines(ChatTemplate):
    def outline(self, *_: Any, **__: Any) -> None:
        return None


TEMPLATES = [
    tuple(kind(text, {"eos_token": "</s>"}) for kind in (ChatTemplate, WithoutOutlines)) for text in IN_MANY_WAYS
]
SAID = st.sampled_from(
    ["user", "a", "assistant", " a b\n", "a/think", "x</think>b", "<think>c</think>", "ab", "é/", "/"]
)


@settings(max_examples=25, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from(["", "s"]), SAID, SAID, SAID), min_size=2, max_size=6))
@example([("", "a", "b", "c"), ("", "user", "a/think", "x</think>b")])
def test_a_pair_is_rendered_alike_whether_its_shape_is_known_or_not(pairs: list[tuple[str, ...]]):
    def outcome(template: ChatTemplate, pair: ChatPair) -> Any:
        try:
            return render_pair(pair, template, config())
        except Dropped as dropped:
            return dropped.reason, dropped.detail

    for known, unknown in TEMPLATES:
        known._outlines = Outlines()
        for system, user, chosen, rejected in [("", "q", "yes", "no"), ("s", "q", "yes", "no"), *pairs]:
            prompt = [*([("system", system)] if system else []), ("user", user)]
            pair = pair_of(*prompt, chosen=chosen, rejected=rejected)
            assert outcome(known, pair) == outcome(unknown, pair)


def test_a_known_shape_is_rendered_without_the_template(monkeypatch: pytest.MonkeyPatch):
    template = ChatTemplate(CHAT, {"eos_token": "</s>"})
    assert render_pair(pair_of(), template, config()).texts.chosen == "yes</s>\n"
    monkeypatch.setattr(ChatTemplate, "render", lambda *_, **__: pytest.fail("Jinja is asked"))
    monkeypatch.setattr("oddsmill.pipeline.tokens.rendering.find_left_out", lambda *_: pytest.fail("texts are sought"))
    rendered = render_pair(pair_of(("user", "Well?"), chosen=" a b ", rejected="c"), template, config())
    assert rendered == (("[user]Well?</s>\n[assistant]", " a b </s>\n", "c</s>\n"), Notes(0), (), ())
    with pytest.raises(Dropped, match="identical_answers: the template renders chosen and rejected alike"):
        render_pair(pair_of(chosen="a", rejected="a"), template, config())
