"""`oddsmill train generate`: a model, or a checkpoint of a run, and prompts in; a line of JSON an answer out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from flax import nnx
from jax.sharding import NamedSharding

from oddsmill.schemas.chat.messages import MessageForms
from oddsmill.schemas.chat.tokenizer import Tokenizer
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.files import check_place, publish_file
from oddsmill.schemas.text.printable import printable_json
from oddsmill.train.config.devices import MeshConfig
from oddsmill.train.config.generate import GenerateConfig
from oddsmill.train.generation.generate import generate
from oddsmill.train.generation.prompts import Encoded, answer_text, encode_prompts, read_prompt, read_prompts
from oddsmill.train.model.frozen import join_params
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.model.names import Params
from oddsmill.train.parallel.coordination import is_joined
from oddsmill.train.parallel.sharding import batch_sharding, make_mesh
from oddsmill.train.run_folder import read_run_folder, restore_weights
from oddsmill.train.weights.generation_config import stop_ids
from oddsmill.train.weights.model_files import ModelFiles, find_model, load_decoder, read_model_files


def run_generate(config: GenerateConfig) -> None:
    """Writes one object an answer, in order: `row`, `sample`, `prompt`, `answer`, `ids`, `finish_reason`.

    Raises:
      Refused: the model, the prompts or the place for the output cannot be used.
    """
    with _output(config.out) as file:
        for answer in answers(config):
            print(printable_json(answer), file=file, flush=True)


class _Answering(NamedTuple):
    """A model that can answer, its weights not read yet.

    Attributes:
      files: config.json and, beside it, generation_config.json.
      tokenizer: the folder of the tokenizer.
      load: reads the weights; returns the decoder's definition and its weights.
      bos_in_chat: as `encode_prompts` takes it.
      row_sharding: lays the rows of a batch over the mesh; None: every device answers all of them.
    """

    files: ModelFiles
    tokenizer: Path
    load: Callable[[], tuple[nnx.GraphDef, Params]]
    row_sharding: NamedSharding | None
    bos_in_chat: bool = False


def _model(config: GenerateConfig) -> _Answering:
    assert config.model is not None and config.model.path is not None  # by GenerateConfig
    folder = find_model(config.model)
    files = read_model_files(folder, disable_dropout=False)  # a generation drops nothing in any case
    mesh = make_mesh(config.mesh or MeshConfig())
    dtypes = {"param_dtype": config.param_dtype or "float32", "compute_dtype": config.compute_dtype or "float32"}
    load = partial(load_decoder, folder, files.decoder_config, mesh, **dtypes)
    return _Answering(files, folder, load, batch_sharding(mesh))


def _checkpoint(config: GenerateConfig) -> _Answering:
    run = read_run_folder(config, command="oddsmill train generate")

    def load() -> tuple[nnx.GraphDef, Params]:
        step, params, frozen = restore_weights(run, config.checkpoint)
        log.info(f"{config.run_dir}: the checkpoint of step {step}")
        return run.program.generator, join_params(params, frozen)

    as_trl = run.data.manifest.settings.get("compat") == "trl"
    return _Answering(run.model, run.files.tokenizer, load, None, bos_in_chat=as_trl)


def answers(config: GenerateConfig) -> Iterator[dict[str, Any]]:
    """Yields the objects that `run_generate` writes.

    `prompt` is the text that the model reads, rendered; `ids` are the new tokens, the stop id included, and `answer`
    is their text without it; `row` counts prompts and `sample` the answers to one, both from 0.

    Raises:
      Refused: as `run_generate`.
    """
    if is_joined():
        raise Refused("oddsmill train generate runs in one process, and several are joined here")
    model = _checkpoint(config) if config.run_dir else _model(config)
    folder, hf_config, decoder_config = model.files.folder, model.files.hf_config, model.files.decoder_config
    tokenizer = Tokenizer(model.tokenizer, chat_template=config.chat_template)
    prompts = _encoded_prompts(config, tokenizer, decoder_config, bos_in_chat=model.bos_in_chat)
    ends = tokenizer.answer_ends | stop_ids(folder, hf_config)
    longest = max(len(prompt.ids) for prompt in prompts) + config.max_new_tokens
    made_for = hf_config.get("max_position_embeddings") or longest
    if longest > made_for:
        log.info(f"prompt and answer may reach {longest} tokens, {folder} is made for {made_for}")
    definition, params = model.load()
    generated = generate(
        definition,
        params,
        decoder_config,
        [prompt.ids for prompt in prompts],
        sampling=config.sampling,
        stop_ids=sorted(ends),
        batch_size=config.batch_size,
        row_sharding=model.row_sharding,
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


def _encoded_prompts(
    config: GenerateConfig, tokenizer: Tokenizer, decoder: DecoderConfig, *, bos_in_chat: bool
) -> list[Encoded]:
    forms = MessageForms(config.roles, config.message_keys, option="")
    if config.prompt is not None:
        prompts = [read_prompt({"prompt": config.prompt}, "--prompt", forms)]
    else:
        prompts = list(read_prompts(str(config.prompts), forms))
    if not prompts:
        raise Refused(f"--prompts={config.prompts}: there is no prompt in it")
    if config.chat is not True and all(isinstance(prompt.content, str) for prompt in prompts):
        for name in ("chat_template", "chat_template_kwargs", "chat_date", "roles", "message_keys"):
            value = getattr(config, name)
            require(not value, name, value, "has no effect: the prompts are texts, not messages (see --chat)")
    template = tokenizer.chat_template
    if config.chat_date and template is not None:
        require(template.uses_date, "chat_date", config.chat_date, "has no effect: the chat template writes no date")
    for name in config.chat_template_kwargs:
        problem = f"has no effect: the chat template does not read {name!r}"
        is_read = template is None or template.mentions(name)
        require(is_read, "chat_template_kwargs", config.chat_template_kwargs, problem)
    return encode_prompts(
        prompts,
        tokenizer,
        chat=config.chat,
        date=config.chat_date,
        variables=config.chat_template_kwargs,
        vocab_size=decoder.vocab_size,
        bos_in_chat=bos_in_chat,
    )


@contextmanager
def _output(path: str | None) -> Iterator[IO]:
    """Opens standard output, or a file that appears under its name when it is whole."""
    if path is None:
        yield sys.stdout
        return
    check_place(path, "out")
    if Path(path).is_dir():
        raise Refused(f"--out={path}: is a folder; give a file")
    with ExitStack() as stack:
        try:
            file = stack.enter_context(publish_file(path))
        except OSError as error:
            raise Refused(f"--out={path}: cannot be written ({error.strerror})") from error
        yield file
