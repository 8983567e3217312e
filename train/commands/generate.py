"""`oddsmill train generate`: a model folder and prompts in, a line of JSON an answer out."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from oddsmill.schemas.chat.special_tokens import read_json_object
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.errors import Refused, require
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.generation.generate import generate
from oddsmill.train.generation.prompts import Encoded, Prompt, answer_text, encode_prompts, read_prompts
from oddsmill.train.model.hf_config import DecoderConfig, config_file, parse_config, read_config
from oddsmill.train.parallel.sharding import batch_sharding, make_mesh
from oddsmill.train.weights.hub import find_model
from oddsmill.train.weights.loading import load_decoder


def run_generate(config: GenerateConfig) -> None:
    """Writes one object an answer, in order: `row`, `sample`, `prompt`, `answer`, `ids`, `finish_reason`.

    Raises:
      Refused: the model, the prompts or the place for the output cannot be used.
    """
    with _output(config.out) as file:
        for answer in answers(config):
            print(json.dumps(answer, ensure_ascii=False), file=file, flush=True)


def answers(config: GenerateConfig) -> Iterator[dict[str, Any]]:
    """The objects that `run_generate` writes.

    `prompt` is the text that the model reads, rendered; `ids` are the new tokens, the stop id included, and `answer`
    is their text without it; `row` counts prompts and `sample` the answers to one, both from 0.

    Raises:
      Refused: as `run_generate`.
    """
    assert config.model.path is not None  # by GenerateConfig
    folder = find_model(config.model.path, config.model.revision)
    hf_config = read_config(folder)
    decoder_config, unused = parse_config(hf_config, path=str(config_file(folder)))
    if unused:
        _note(f"{config_file(folder)}: fields that are not known here and not used: {', '.join(unused)}")
    tokenizer = Tokenizer(folder, chat_template=config.chat_template)
    prompts = _encoded_prompts(config, tokenizer, decoder_config)
    stop_ids = tokenizer.answer_ends | eos_ids(folder, hf_config)
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    made_for = hf_config.get("max_position_embeddings") or longest
    if longest > made_for:
        _note(f"prompt and answer may reach {longest} tokens, {folder} is made for {made_for}")
    mesh = make_mesh(config.mesh)
    definition, params = load_decoder(
        folder, decoder_config, mesh, param_dtype=config.param_dtype, compute_dtype=config.compute_dtype
    )
    generated = generate(
        definition,
        params,
        decoder_config,
        [prompt.ids for prompt in prompts],
        sampling=config.sampling,
        stop_ids=sorted(stop_ids),
        batch_size=config.batch_size,
        row_sharding=batch_sharding(mesh),
    )
    for number, answer in enumerate(generated):
        row, sample = divmod(number, config.num_return_sequences)
        spoken = answer.ids[:-1] if answer.finish_reason == "stop" else answer.ids
        yield {
            "row": row,
            "sample": sample,
            "prompt": prompts[row].text,
            "answer": answer_text(tokenizer, prompts[row].ids, spoken),
            "ids": answer.ids,
            "finish_reason": answer.finish_reason,
        }


def _encoded_prompts(config: GenerateConfig, tokenizer: Tokenizer, decoder: DecoderConfig) -> list[Encoded]:
    prompts = (
        [Prompt("--prompt", config.prompt)] if config.prompt is not None else list(read_prompts(str(config.prompts)))
    )
    if not prompts:
        raise Refused(f"--prompts={config.prompts}: there is no prompt in it")
    if config.chat is not True and all(isinstance(prompt.content, str) for prompt in prompts):
        for name in ("chat_template", "chat_template_kwargs", "chat_date"):
            value = getattr(config, name)
            require(not value, name, value, "has no effect: the prompts are texts, not messages (see --chat)")
    template = tokenizer.chat_template
    if config.chat_date and template is not None:
        require(template.uses_date, "chat_date", config.chat_date, "has no effect: the chat template writes no date")
    return encode_prompts(
        prompts,
        tokenizer,
        chat=config.chat,
        date=config.chat_date,
        variables=config.chat_template_kwargs,
        vocab_size=decoder.vocab_size,
    )


def eos_ids(folder: Path, hf_config: dict[str, Any]) -> set[int]:
    """The ids that end an answer by generation_config.json and config.json; either may name one or several."""
    ids: set[int] = set()
    for name, content in (
        ("generation_config.json", read_json_object(folder / "generation_config.json")),
        ("config.json", hf_config),
    ):
        found = content.get("eos_token_id")
        found = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(token, int) for token in found):
            raise Refused(f"{folder / name}: eos_token_id is {content['eos_token_id']!r}, not an id or a list of ids")
        ids |= set(found)
    return ids


def _note(text: str) -> None:
    """Standard output holds answers alone."""
    print(text, file=sys.stderr)


@contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that appears under its name when it is whole."""
    if path is None:
        yield sys.stdout
        return
    unfinished = Path(f"{path}.unfinished")
    try:
        file = unfinished.open("w", encoding="utf-8")
    except OSError as error:
        raise Refused(f"--out={path}: cannot be written ({error.strerror})") from error
    try:
        with file:
            yield file
    except BaseException:
        unfinished.unlink()
        raise
    os.replace(unfinished, path)
