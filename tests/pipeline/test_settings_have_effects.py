"""No setting that is read and then has no effect: runs that differ in one setting leave other rows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline.config import PreprocessConfig
from oddsmill.schemas.settings import setting_types

FOLDER = Path(__file__).parent
CHAT = "{% for message in messages %}[{{ message.role }}] {{ message.content }}{% endfor %}"
LOSING = CHAT.replace("message.content", "'Which?' if 'Which of 1' in message.content else message.content")
DATED = "{{ strftime_now('%Y-%m-%d') }}" + CHAT
RANKED, VOTED = {"format": "ranked"}, {"format": "votes"}

# setting -> (its value, the rows, what both runs share; `source` for the settings of the source)
EFFECTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "source.format": ("transcript", "triples", {"source": {"format": "triple"}}),
    "source.fields": ({"prompt": "other_prompt"}, "triples", {}),
    "source.ranked_pairs": ("all", "ranked", {"source": RANKED}),
    "source.margin": (1.5, "ranked", {"source": RANKED}),
    "source.vote_values": ({"1": "second", "2": "first"}, "voted", {"source": VOTED}),
    "tokenizer": ("another tokenizer", "triples", {}),
    "chat_template": (CHAT.replace("[", "<"), "messages", {"chat_template": CHAT}),
    "chat_template_kwargs": ({"tone": "kind"}, "messages", {"chat_template": "{{ tone }}" + CHAT}),
    "add_bos": (False, "triples", {}),
    "chat_date": ("2020-01-31", "messages", {"chat_template": DATED, "chat_date": "2026-01-31"}),
    "require_rendered": (True, "messages", {"chat_template": LOSING}),
    "max_length": (48, "triples", {"row_length": 200}),
    "max_prompt_length": (8, "triples", {"row_length": 200, "max_length": 40}),
    "max_completion_length": (20, "triples", {}),
    "truncation_side": ("keep_start", "triples", {"max_length": 40, "max_prompt_length": 8}),
    "overlong": ("drop", "triples", {"max_length": 56, "max_prompt_length": 8}),
    "compat": ("trl", "long prompts", {"max_length": 550}),
    "packing": (False, "triples", {"row_length": 300}),
    "row_length": (200, "triples", {}),
    "eval_share": (0.5, "triples", {}),
    "shuffle": (False, "triples", {"eval_share": 0.0}),
    "seed": (1, "triples", {}),
    "dedup": ("exact", "triples", {}),
    "num_shards": (2, "triples", {}),
}
# What rows do not show -> the test that does.
ELSEWHERE = {
    "source": "test_mixed_sources.py::test_31_a_mixed_list_of_formats_and_fields",
    "source.roles": "formats/test_messages.py::test_a_source_has_its_own_names_for_roles_and_keys",
    "source.message_keys": "formats/test_messages.py::test_a_source_has_its_own_names_for_roles_and_keys",
    "source.path": "input/test_sources.py::test_globs_and_lists_name_each_file_once_in_a_known_order",
    "source.split": "input/test_hub.py::test_splits_and_slices_of_a_hub_dataset",
    "source.name": "input/test_hub.py::test_what_the_hub_does_not_have_is_refused_and_what_it_has_is_named",
    "source.revision": "input/test_hub.py::test_what_the_hub_does_not_have_is_refused_and_what_it_has_is_named",
    "tokenizer_revision": "tokens/test_tokenizer.py::test_a_model_or_a_revision_that_the_hub_lacks_is_refused",
    "chat": "tokens/test_text_rules.py::test_chat_makes_dialogues_of_texts_also_on_a_worker",
    "output": "test_run.py::test_a_second_run_does_nothing",
    "answer_loss": "tokens/test_answer_turns.py::test_all_turns_have_loss_where_that_is_asked_for_and_as_trl_does",
    "max_drop_share": "test_run.py::test_too_many_drops_refuse_the_run_and_leave_the_rejects",
    "overwrite": "test_run.py::test_a_dataset_of_other_settings_input_or_tokenizer_is_not_overwritten",
    "dataset_num_proc": "workers/test_pool.py::test_every_byte_is_that_of_one_process_of_files_of_every_kind",
    "tokenizer_engine": "test_run.py::test_either_engine_makes_the_same_dataset_and_the_manifest_says_which",
    "beam_options": "test_command_line.py::test_options_of_beam_in_the_settings_are_obeyed_and_the_command_line_wins",
}


def chat(number: int, side: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": f"{side} {number}, and the rest of it"}]


def made(kind: str, triples: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows that each setting of their kind can tell apart."""
    if kind == "ranked":
        answers = [" first", " second one", " third of them"]
        return [{"prompt": f"{n}?", "completions": answers, "scores": [3, 2, n % 3]} for n in range(20)]
    if kind == "voted":
        return [{"prompt": f"{n}?", "completions": [" yes", " no"], "votes": 1 + n % 2} for n in range(20)]
    if kind == "messages":
        return [
            {
                "prompt": [{"role": "user", "content": f"Which of {n}?"}],
                "chosen": chat(n, "This one"),
                "rejected": chat(n, "That one"),
            }
            for n in range(20)
        ]
    if kind == "long prompts":  # of 540 tokens, a byte each: cut to make room, where TRL cuts the answers
        answers = {"chosen": " a good answer, not a short one", "rejected": " another one, no better than it"}
        return [{"prompt": f"{n}{'é' * 270}", **answers} for n in range(20)]
    # Texts that are transcripts too, another prompt, and five exact duplicates.
    for number, row in enumerate(triples):
        row["other_prompt"] = f"Another question {number}"
        for side in ("chosen", "rejected"):
            row[side] = f"\n\nHuman: Which of {number}?\n\nAssistant:{row[side]}"
    return [*triples, *triples[:5]]


def rows_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.arrayrecord")}


@pytest.mark.slow
@pytest.mark.parametrize("setting", EFFECTS)
def test_every_setting_of_the_pipeline_has_an_effect(
    run: Callable, write_rows: Callable, triples: Callable, make_tokenizer: Callable, tmp_path: Path, setting: str
):
    value, kind, both = EFFECTS[setting]
    if setting == "tokenizer":
        value = str(make_tokenizer(tmp_path / "tokenizer", bos_token=None))
    both = {"max_drop_share": 1.0} | both
    changed = dict(both)
    if setting.startswith("source."):
        changed["source"] = both.get("source", {}) | {setting.removeprefix("source."): value}
    else:
        changed[setting] = value
    path = write_rows("rows.jsonl", made(kind, triples(60)))
    base = rows_of(run("base", path, **both).folder)
    assert base == rows_of(run("again", path, **both).folder)
    assert base != rows_of(run("changed", path, **changed).folder)


def test_every_setting_of_the_pipeline_is_shown_to_have_an_effect():
    names = {name for name, _ in setting_types(PreprocessConfig)}
    assert set(EFFECTS) | set(ELSEWHERE) == names and not set(EFFECTS) & set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, test = place.split("::")
        assert f"\ndef {test}(" in (FOLDER / file).read_text()
