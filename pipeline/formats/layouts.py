"""Public datasets whose columns are known, and the names that public datasets have for our fields.

A dataset is added by one record in `LAYOUTS`; docs/reference/datasets.md has a line for it, and its test a row.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product, takewhile
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from oddsmill.pipeline.config import SourceConfig
from oddsmill.pipeline.formats.rows import Row

Names = Mapping[str, str | list[str]]
Meaning = Literal["first", "second", "tie"]


class Layout(NamedTuple):
    """The layout of a dataset, as settings of the source.

    Attributes:
      columns: the columns and paths that tell it: a row of the dataset has them all.
      without: a path that tells of another layout: most rows of the dataset do not have it.
      format, fields, vote_values: the settings of the source under which its rows are read.
      advice: what to do instead, where its rows are no pairs by themselves.
    """

    name: str
    columns: tuple[str, ...]
    format: str = ""
    fields: Names = MappingProxyType({})
    vote_values: Mapping[str, Meaning] = MappingProxyType({})
    advice: str = ""
    without: str = ""


_SIGNED: dict[str, Meaning] = {"-3": "first", "-2": "first", "-1": "first", "0": "tie"}
_SIGNED |= {"1": "second", "2": "second", "3": "second"}
_FROM_ZERO: dict[str, Meaning] = {"0": "first", "1": "second"}
# Of several that fit, the first is taken.
LAYOUTS = (
    Layout(
        "UltraFeedback",
        ("instruction", "completions.response", "completions.overall_score"),
        "ranked",
        {"prompt": "instruction", "completions": "completions.response", "scores": "completions.overall_score"},
    ),
    Layout(
        "Nectar",
        ("prompt", "answers.answer", "answers.rank"),
        "ranked",
        {"completions": "answers.answer", "ranks": "answers.rank"},
    ),
    Layout(
        "StackExchange preferences",
        ("question", "answers.text", "answers.pm_score"),
        "ranked",
        {"prompt": "question", "completions": "answers.text", "scores": "answers.pm_score"},
    ),
    Layout(
        "StackExchange paired",
        ("question", "response_j", "response_k"),
        "triple",
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
    ),
    Layout(
        "HelpSteer 3",
        ("context", "response1", "response2", "overall_preference"),
        "votes",
        {"prompt": "context", "completions": ["response1", "response2"], "votes": "overall_preference"},
        _SIGNED,
    ),
    Layout(
        "HelpSteer 2, preference",
        ("prompt", "response_1", "response_2", "preference_strength"),
        "votes",
        {"completions": ["response_1", "response_2"], "votes": "preference_strength"},
        _SIGNED,
    ),
    Layout(
        "HelpSteer",
        ("prompt", "response", "helpfulness", "correctness", "coherence"),
        advice="a row holds one answer and its ratings. HelpSteer 2 has its preferences in pairs in preference/ of "
        "its repository; else make a row of all answers to a prompt: prompt, completions, scores",
    ),
    Layout(
        "SHP",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        "votes",
        {"prompt": "history", "completions": ["human_ref_A", "human_ref_B"], "votes": "labels"},
        {"1": "first", "0": "second"},
    ),
    Layout(
        "PKU-SafeRLHF",
        ("prompt", "response_0", "response_1", "better_response_id"),
        "votes",
        {"completions": ["response_0", "response_1"], "votes": "better_response_id"},
        _FROM_ZERO,
    ),
    Layout(
        "Chatbot Arena",
        ("conversation_a", "conversation_b", "winner"),
        "votes",
        {"completions": ["conversation_a", "conversation_b"], "votes": "winner"},
    ),
    Layout(
        "AlpacaFarm",
        ("instruction", "output_1", "output_2", "preference"),
        "votes",
        {"prompt": ["instruction", "input"], "completions": ["output_1", "output_2"], "votes": "preference"},
    ),
    Layout(
        "PandaLM",
        ("instruction", "response1", "response2", "annotator1", "annotator2", "annotator3"),
        "votes",
        {
            "prompt": ["instruction", "input"],
            "completions": ["response1", "response2"],
            "votes": ["annotator1", "annotator2", "annotator3"],
        },
    ),
    Layout(
        "summarize from feedback",
        ("info", "summaries.text", "choice"),
        "votes",
        {"prompt": "info.post", "completions": "summaries.text", "votes": "choice"},
        _FROM_ZERO,
    ),
    Layout(
        "WebGPT comparisons",
        ("question.full_text", "answer_0", "answer_1", "score_0", "score_1"),
        "ranked",
        {
            "prompt": "question.full_text",
            "completions": ["answer_0", "answer_1"],
            "scores": ["score_0", "score_1"],
        },
    ),
    Layout(
        "OpenAI preference fine-tuning",
        ("input.messages", "preferred_output", "non_preferred_output"),
        "messages",
        {
            "prompt": "input.messages",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
            "tools": "input.tools",
        },
    ),
    Layout(
        "UltraInteract",
        ("trajectory", "chosen", "rejected"),
        "sharegpt",
        {"prompt": "trajectory"},
    ),
    Layout(
        "ms-swift",
        ("messages", "rejected_response"),
        "messages",
        {"chosen": "messages", "rejected": "rejected_response"},
    ),
    Layout(
        "ms-swift",
        ("messages", "rejected_messages"),
        "messages",
        {"chosen": "messages", "rejected": "rejected_messages"},
    ),
    Layout(
        "distilabel",
        ("input", "generations", "rating"),
        "ranked",
        {"prompt": "input", "completions": "generations", "scores": "rating"},
    ),
    Layout(
        "distilabel",
        ("instruction", "generations", "ratings"),
        "ranked",
        {"prompt": "instruction", "completions": "generations", "scores": "ratings"},
    ),
    Layout(
        "LLaMA-Factory, answers in a list",
        ("instruction", "output.1"),
        "triple",
        {"prompt": ["instruction", "input"], "chosen": "output.0", "rejected": "output.1"},
        without="output.2",
    ),
)
_PROMPTS = ("instruction", "question", "query", "input", "problem", "conversation", "context")
_WORDS = (
    ("chosen", "rejected"),
    ("accepted", "rejected"),
    ("accept", "reject"),
    ("preferred", "dispreferred"),
    ("preferred", "non_preferred"),
    ("preferred", "rejected"),
    ("better", "worse"),
    ("winning", "losing"),
    ("winner", "loser"),
)
_NOUNS = ("response", "answer", "completion", "output", "text", "messages", "conversation", "conversations")
_ENDS = ("abcdefghij", "0123456789", "123456789")
_SCORES = ("score", "rating", "reward")
_VOTES = (
    "winner",
    "preference",
    "preferred",
    "choice",
    "vote",
    "votes",
    "label",
    "better",
    "better_response",
    "chosen",
)
_SIDES = (
    *_WORDS,
    *((f"{better}_{noun}", f"{worse}_{noun}") for (better, worse), noun in product(_WORDS, _NOUNS)),
    *((f"{noun}_{better}", f"{noun}_{worse}") for (better, worse), noun in product(_WORDS, _NOUNS)),
    ("response", "rejected_response"),
    ("response", "rejected"),
)


def find_layouts(rows: Iterable[Mapping[str, Any]], source: SourceConfig) -> Iterator[Layout]:
    """Yields the layouts that the rows may have, the most likely first: those of known datasets, then by names.

    A field that the source names is left to it, and a layout is not tried that does not read that field. Columns that
    few rows have tell nothing: they are of odd rows.
    """
    rows = list(rows)
    having = Counter(column for row in rows for column in row)
    columns = [column for column, count in having.items() if count >= len(rows) / 2]
    columns += [column for column in having if column.lower() == "input" and column not in columns]  # may be left out
    has_sides = {"chosen", "rejected"} <= {*columns}
    for layout in LAYOUTS:
        if has_sides and "completions" in layout.fields:
            continue  # columns with our names are what they say
        suits = source.fields.keys() <= layout.fields.keys() and source.format in (None, layout.format or None)
        is_another = layout.without and _has_most(rows, [layout.without])
        if suits and _has_most(rows, layout.columns) and not is_another:
            yield layout
    for fields in (_answers_by_names(columns, source.fields), _sides_by_names(columns, source.fields)):
        if fields:
            yield Layout("", (), source.format or "", fields)


def layout_name(source: SourceConfig) -> str:
    """Returns the name of the dataset that a source is laid out as; empty where it is none that is known."""
    for layout in LAYOUTS:
        if layout.fields and (layout.format, dict(layout.fields)) == (source.format, source.fields):
            return layout.name
    return ""


def describe_source(resolved: SourceConfig, given: SourceConfig) -> str:
    """Says how rows are read, and what of that was detected: `triple (detected: prompt=question)`."""
    if given.format == resolved.format and given.fields == resolved.fields:
        return str(resolved.format)
    found = {name: names for name, names in resolved.fields.items() if given.fields.get(name) != names}
    names = ", ".join(f"{name}={' + '.join(of) if isinstance(of, list) else of}" for name, of in found.items())
    about = ": ".join(part for part in ("detected", layout_name(resolved), names) if part)
    return f"{resolved.format} ({about})"


def _has_most(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bool:
    having = sum(all(Row(row, {}).has(column) for column in columns) for row in rows)
    return having > len(rows) / 2


def _sides_by_names(columns: Sequence[str], given: Names) -> dict[str, str | list[str]]:
    """Finds prompt, chosen and rejected by the names that datasets have for them; none where nothing is found."""
    named = _by_plain_name(columns)
    fields: dict[str, str | list[str]] = {}
    if not {"chosen", "rejected"} & given.keys():
        sides = next((names for names in _SIDES if named.keys() >= {*names}), None)
        if sides is None:
            return {}
        fields |= {ours: named[name] for ours, name in zip(("chosen", "rejected"), sides, strict=True)}
    return {ours: name for ours, name in (fields | _prompt_by_name(named, given)).items() if ours != name}


def _answers_by_names(columns: Sequence[str], given: Names) -> dict[str, str | list[str]]:
    """Finds answers in columns such as response_a and response_b, and their scores, or the vote between two."""
    named = _by_plain_name(columns)
    for noun, ends, gap in product(_NOUNS, _ENDS, ("_", "")):
        answers = list(takewhile(named.__contains__, (noun + gap + end for end in ends)))
        if len(answers) < 2:
            continue
        ends = ends[: len(answers)]
        scores = next((s for of in _SCORES if named.keys() >= {*(s := [of + gap + end for end in ends])}), None)
        vote = next((name for name in _VOTES if name in named and name not in answers), None)
        vote = vote if len(answers) == 2 else None
        found: dict[str, str | list[str]] = {"votes": named[vote]} if vote else {}
        if scores:
            found = {"scores": [named[name] for name in scores]}
        if found and not {"chosen", "rejected", *found} & given.keys():
            fields: dict[str, str | list[str]] = {"completions": [named[name] for name in answers], **found}
            return {ours: name for ours, name in (fields | _prompt_by_name(named, given)).items() if ours != name}
    return {}


def _prompt_by_name(named: Mapping[str, str], given: Names) -> dict[str, str | list[str]]:
    prompt = next((name for name in ("prompt", *_PROMPTS) if name in named), None)
    if prompt is None or "prompt" in given:
        return {}
    if prompt == "instruction" and "input" in named:
        return {"prompt": [named["instruction"], named["input"]]}
    return {"prompt": named[prompt]}


def _by_plain_name(columns: Sequence[str]) -> dict[str, str]:
    """Returns the columns by their names in small letters, with underscores for hyphens and spaces."""
    return {column.lower().replace("-", "_").replace(" ", "_"): column for column in reversed(columns)}
