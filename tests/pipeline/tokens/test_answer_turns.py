"""Answers of several turns and opened turns: which tokens the prompt has, and which of the answers' have loss."""

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.formats.pairs import PairIds, PreferencePair, chat_pair
from oddsmill.pipeline.tokens.answer_turns import cut_unscored
from oddsmill.pipeline.tokens.rendering import check_rendering
from oddsmill.pipeline.tokens.text_rules import OURS, TRL
from oddsmill.pipeline.tokens.tokenization import tokenize_batch
from oddsmill.pipeline.tokens.tokenizer import load_tokenizer
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.drops import Dropped
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.layout import derive
from oddsmill.schemas.record import Pair, make_row

TURN = "{{ '[' + m.role + ']' }}%s{{ m.content }}{%% if m.call %%}{{ '<' + m.call + '>' }}{%% endif %%}{{ '</s>\n' }}"
CHAT = "{% for m in messages %}" + TURN % "" + "{% endfor %}"
OPEN = "{% if add_generation_prompt %}[assistant]{% endif %}"
REASONED = "{%% if m.role == 'assistant' and (%s) %%}<think>{{ m.reasoning_content }}</think>{%% endif %%}"
TEMPLATES = {
    "plain": CHAT + OPEN,
    # Only a last turn has an empty reasoning, as Qwen 3 writes it.
    "last turn otherwise": "{% for m in messages %}"
    + TURN % (REASONED % "loop.last or m.reasoning_content")
    + "{% endfor %}"
    + OPEN,
    # The reasoning of earlier turns of the user is left out.
    "earlier reasoning left out": "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    + "{% for m in messages %}"
    + TURN % (REASONED % "m.reasoning_content and users[-1] in messages[:loop.index]")
    + "{% endfor %}"
    + OPEN,
    # The whole ends in another token, as Phi 3 writes it.
    "end of the whole": CHAT + "{% if add_generation_prompt %}[assistant]{% else %}<s>{% endif %}",
    # The end of a turn is written where another follows.
    "end between turns": CHAT.replace("{{ '</s>\n' }}", "{{ '' if loop.last else '</s>\n' }}")
    + "{% if add_generation_prompt %}</s>\n[assistant]{% endif %}",
    "trimmed": (CHAT + OPEN).replace("m.content", "m.content | trim"),
}


@pytest.fixture(scope="module")
def tokenizers(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = make_tokenizer(tmp_path_factory.mktemp("turns"))
    tokenizer = {name: load_tokenizer(folder, chat_template=template) for name, template in TEMPLATES.items()}
    assert tokenizer["plain"].answer_ends == {2}
    return tokenizer


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def tool(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text}


def config(**changes: Any) -> PreprocessConfig:
    return PreprocessConfig(source=SourceConfig(path="a"), tokenizer="t", output="o", **changes)


def tokenized(tokenizer: Tokenizer, *sides: list, **changes: Any) -> PairIds | Dropped:
    pair, settings = chat_pair(*sides), config(**changes)
    (ids,) = tokenize_batch([pair], tokenizer, TRL if settings.compat else OURS, settings)
    return ids


def marked(tokenizer: Tokenizer, ids: PairIds | Dropped, side: str) -> str:
    """The text of an answer, its unscored tokens between « and »."""
    assert isinstance(ids, PairIds), ids
    text, end = "", 0
    for first, after in getattr(ids, f"unscored_{side}"):
        text += (
            tokenizer.decode(getattr(ids, side)[end:first])
            + "«"
            + tokenizer.decode(getattr(ids, side)[first:after])
            + "»"
        )
        end = after
    return text + tokenizer.decode(getattr(ids, side)[end:])


CALL = [assistant("", call="weather Oslo"), tool("4 C"), assistant("It is 4 C.")]
FOLLOWED = [assistant("Hello!"), user("And now?"), assistant("Bye.")]
REASONING = [
    assistant("Hello!", reasoning_content="greet"),
    tool("x"),
    assistant("Hm.", reasoning_content="ask"),
    user("And now?"),
    assistant("Bye.", reasoning_content="part"),
]
NO = [assistant("No idea.")]


@pytest.mark.parametrize(
    ("template", "answer", "expected"),
    [
        ("plain", CALL, "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»It is 4 C.</s>\n"),
        ("plain", FOLLOWED, "Hello!</s>\n«[user]And now?</s>\n[assistant]»Bye.</s>\n"),
        ("plain", [assistant("a"), assistant("b")], "a</s>\n«[assistant]»b</s>\n"),
        (
            "plain",
            [*CALL, user("And?"), *CALL],
            "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»It is 4 C.</s>\n«[user]And?</s>\n[assistant]»"
            "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»It is 4 C.</s>\n",
        ),
        (
            "last turn otherwise",
            CALL,
            "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»<think></think>It is 4 C.</s>\n",
        ),
        (
            "last turn otherwise",
            REASONING,
            "<think>greet</think>Hello!</s>\n«[tool]x</s>\n[assistant]»<think>ask</think>Hm.</s>\n«[user]And now?</s>\n"
            "[assistant]»<think>part</think>Bye.</s>\n",
        ),
        (
            "earlier reasoning left out",
            REASONING,
            "Hello!</s>\n«[tool]x</s>\n[assistant]»Hm.</s>\n«[user]And now?</s>\n[assistant]»"
            "<think>part</think>Bye.</s>\n",
        ),
        ("end of the whole", CALL, "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»It is 4 C.</s>\n<s></s>"),
        ("end of the whole", FOLLOWED, "Hello!</s>\n«[user]And now?</s>\n[assistant]»Bye.</s>\n<s></s>"),
        ("end between turns", CALL, "<weather Oslo></s>\n«[tool]4 C</s>\n[assistant]»It is 4 C.</s>"),
        (
            "trimmed",
            [assistant(" Hello! "), user(" "), assistant(" Bye.")],
            "Hello!</s>\n«[user]</s>\n[assistant]»Bye.</s>\n",
        ),
    ],
)
def test_what_the_assistant_writes_has_loss_with_its_ends_of_turns_and_nothing_else(
    tokenizers: dict[str, Tokenizer], template: str, answer: list, expected: str
):
    tokenizer = tokenizers[template]
    for sides, side in (((answer, NO), "chosen"), ((NO, answer), "rejected")):
        ids = tokenized(tokenizer, [user("Weather?")], *sides)
        assert marked(tokenizer, ids, side) == expected
        other = {"chosen": "rejected", "rejected": "chosen"}[side]
        assert "«" not in marked(tokenizer, ids, other)


def test_tokens_labels_and_loss_line_up_by_eye(tokenizers: dict[str, Tokenizer]):
    """A template that writes `U:` for the user, `A:` for the assistant and `T:` for a tool; `e` is EOS, `⏎` a break."""
    template = TEMPLATES["plain"].replace("[assistant]", "A:").replace("'[' + m.role + ']'", "m.role[0] | upper + ':'")
    tokenizer = load_tokenizer(tokenizers["plain"].folder, chat_template="{{ bos_token }}" + template)
    ids = tokenized(tokenizer, [user("W")], [assistant("ok"), tool("4"), assistant("It")], [assistant("no")])
    assert isinstance(ids, PairIds)
    pair = Pair(
        prompt=ids.prompt, chosen=ids.chosen, rejected=ids.rejected, id=1,
        unscored_chosen=ids.unscored_chosen, unscored_rejected=ids.unscored_rejected,
    )  # fmt: skip
    arrays = derive(make_row([pair], row_length=28, pad_id=0, vocab_size=tokenizer.vocab_size))

    def shown(ids: np.ndarray) -> str:
        return " ".join(
            {"<pad>": ".", "<s>": "b", "</s>": "e", "\n": "⏎"}.get(t, t) for t in map(tokenizer.readable, ids)
        )

    # fmt: off
    assert shown(arrays.inputs)             == "b U : W e ⏎ A : o k e ⏎ T : 4 e ⏎ A : I t e : n o e . ."
    assert shown(arrays.labels)             == "U : W e ⏎ A : o k e ⏎ T : 4 e ⏎ A : I t e ⏎ n o e ⏎ . ."
    assert "".join(map(str, arrays.branch)) == "1111111" "2222" "4444444" "2222" "3333" "00"
    # fmt: on


@pytest.mark.parametrize("answer", [CALL, FOLLOWED])
def test_all_turns_have_loss_where_that_is_asked_for_and_as_trl_does(tokenizers: dict[str, Tokenizer], answer: list):
    tokenizer = tokenizers["plain"]
    own = tokenized(tokenizer, [user("W")], answer, NO)
    assert isinstance(own, PairIds) and own.unscored_chosen
    for changes in ({"answer_loss": "all"}, {"compat": "trl"}, {"compat": "trl", "answer_loss": "all"}):
        ids = tokenized(tokenizer, [user("W")], answer, NO, **changes)
        assert isinstance(ids, PairIds) and not ids.unscored_chosen
        assert ids.chosen[: len(own.chosen)] == own.chosen  # TRL adds an EOS after the line break
    with pytest.raises(Refused, match="--answer_loss=assistant: TRL gives loss to all turns of an answer"):
        config(compat="trl", answer_loss="assistant")
    with pytest.raises(Refused, match="--answer_loss=all: has no effect, since the rows are texts"):
        check_rendering([PreferencePair("p", "c", "r")], None, config(answer_loss="all"))


def test_an_answer_that_is_cut_ends_in_a_token_of_the_assistants_or_is_dropped(tokenizers: dict[str, Tokenizer]):
    """At every length: what is left of the whole answer, without what follows the last token with loss."""
    tokenizer = tokenizers["plain"]
    whole = tokenized(tokenizer, [user("W")], FOLLOWED, [assistant("Hello"), user("And"), assistant("No.")])
    assert isinstance(whole, PairIds)
    scored = [number for number in range(len(whole.chosen)) if not _is_in(number, whole.unscored_chosen)]
    for length in range(1, len(whole.chosen) + 1):
        ids = tokenized(
            tokenizer, [user("W")], FOLLOWED, [assistant("Hello"), user("And"), assistant("No.")],
            max_completion_length=length,
        )  # fmt: skip
        if isinstance(ids, Dropped):  # before the two answers part
            assert ids.reason == "identical_answers" and length <= len("Hello")
            continue
        left = [number for number in scored if number < length]
        assert ids.chosen == whole.chosen[: left[-1] + 1]
        assert [n for n in range(len(ids.chosen)) if not _is_in(n, ids.unscored_chosen)] == left
    assert cut_unscored(array("i", [1, 2, 3]), [(0, 5)]) == (array("i"), [])
    assert cut_unscored(array("i", [1, 2, 3, 4]), [(1, 2), (3, 6)]) == (array("i", [1, 2, 3]), [(1, 2)])


def _is_in(number: int, spans: Any) -> bool:
    return any(first <= number < end for first, end in spans)


COUNTED = "{% for m in messages %}[{{ m.role }}{{ loop.revindex }}]{{ m.content }}{% endfor %}"
# What a tool says stands where its call does, and nowhere without one.
WITHIN_CALLS = "{% for m in messages if m.role != 'tool' %}" + TURN.replace(
    "'>' }}", "'>' + (messages | selectattr('role', 'equalto', 'tool') | first).content }}"
) % (REASONED % "loop.last")


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (COUNTED + "{% if add_generation_prompt %}[assistant1]{% endif %}", FOLLOWED),
        (WITHIN_CALLS + "{% endfor %}" + OPEN, CALL),
    ],
)
def test_a_turn_whose_place_cannot_be_told_is_a_drop_and_never_loss_of_others(
    tokenizers: dict[str, Tokenizer], template: str, answer: list
):
    """Templates that count the turns that follow, and that write the tool's text into the assistant's turn."""
    tokenizer = load_tokenizer(tokenizers["plain"].folder, chat_template=template)
    ids = tokenized(tokenizer, [user("W")], answer, [assistant("no"), *FOLLOWED[1:]])
    assert isinstance(ids, Dropped) and ids.reason == "template_not_prefix"


PREFILL = [user("Name a tree."), assistant("Sure, one is")]


@pytest.mark.parametrize(
    ("template", "answers", "expected"),
    [
        ("plain", ([assistant(" oak.")], [assistant(" rock.")]), ("", " oak.</s>\n", " rock.</s>\n")),
        (
            "last turn otherwise",
            ([assistant(" oak.")], [assistant(" rock.")]),
            ("<think></think>", " oak.</s>\n", " rock.</s>\n"),
        ),
        ("trimmed", ([assistant(" oak. ")], [assistant(" rock.")]), ("", " oak.</s>\n", " rock.</s>\n")),
        (
            "plain",
            ([assistant(" oak."), user("More?"), assistant("Elm.")], [assistant(" rock.")]),
            ("", " oak.</s>\n«[user]More?</s>\n[assistant]»Elm.</s>\n", " rock.</s>\n"),
        ),
    ],
)
def test_an_opened_turn_belongs_to_the_prompt_and_the_answers_continue_it(
    tokenizers: dict[str, Tokenizer], template: str, answers: tuple[list, list], expected: tuple[str, str, str]
):
    ids = tokenized(tokenizers[template], PREFILL, *answers)
    reasoning, chosen, rejected = expected
    assert isinstance(ids, PairIds), ids
    prompt = tokenizers[template].decode(ids.prompt)
    assert prompt == f"[user]Name a tree.</s>\n[assistant]{reasoning}Sure, one is"
    assert (marked(tokenizers[template], ids, "chosen"), marked(tokenizers[template], ids, "rejected")) == (
        chosen,
        rejected,
    )


def test_an_opened_turn_is_never_cut(tokenizers: dict[str, Tokenizer]):
    """The user's text gives way, though the opened one is longer."""
    tokenizer = tokenizers["plain"]
    answers = [assistant(" oak.")], [assistant(" rock.")]
    opened = [user("Name a tree, please, now."), assistant("Sure, one of those that I like best is the")]
    whole = tokenized(tokenizer, opened, *answers)
    assert isinstance(whole, PairIds)
    longest = len(whole.prompt) + max(len(whole.chosen), len(whole.rejected))
    ids = tokenized(tokenizer, opened, *answers, max_length=longest - 8, max_prompt_length=1)
    assert isinstance(ids, PairIds)
    assert tokenizer.decode(ids.prompt).endswith("now.</s>\n[assistant]Sure, one of those that I like best is the")
    assert len(ids.prompt) < len(whole.prompt)


TEXTS = st.text(alphabet="ab .é漢👍\n", max_size=6)
TURNS = st.lists(st.tuples(st.sampled_from(["assistant", "tool", "user"]), TEXTS), max_size=5)


@pytest.mark.properties
@settings(deadline=None)
@given(answers=st.tuples(TURNS, TURNS), ends=st.tuples(TEXTS, TEXTS))
def test_the_tokens_with_loss_are_the_text_of_the_assistants_turns(
    tokenizers: dict[str, Tokenizer], answers: tuple[list, list], ends: tuple[str, str]
):
    """Whatever the texts hold: characters of several tokens, white space, nothing."""
    tokenizer = tokenizers["plain"]
    sides = [
        [assistant("a"), *({"role": role, "content": text} for role, text in turns), assistant(end)]
        for turns, end in zip(answers, ends, strict=True)
    ]
    ids = tokenized(tokenizer, [user("q")], *sides)
    if isinstance(ids, Dropped):
        assert ids.reason == "identical_answers" and sides[0] == sides[1]
        return
    for side, messages in zip(("chosen", "rejected"), sides, strict=True):
        own, spans = getattr(ids, side), getattr(ids, f"unscored_{side}")
        text = "".join(turn["content"] + "</s>\n" for turn in messages if turn["role"] == "assistant")
        assert tokenizer.decode([token for number, token in enumerate(own) if not _is_in(number, spans)]) == text
