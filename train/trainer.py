"""The Python API: `ORPOTrainer(arguments, model, train_dataset, …).train()`, with the names of EasyDeL and TRL.

It is the command line's run and nothing else: the same settings, the same files in `run_dir`, the same resuming.
"""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax

from oddsmill.schemas.chat.identity import differences
from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.manifest import MANIFEST_NAME, TOKENIZER_FOLDER, TokenizerSummary, read_manifest
from oddsmill.schemas.process.streams import console_may_be_lost
from oddsmill.train.checkpoint.checkpoints import Checkpoints
from oddsmill.train.checkpoint.run_files import RunFiles
from oddsmill.train.config.export import ExportConfig
from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.orpo_config import ORPOConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.data.raw_rows import preprocess_rows
from oddsmill.train.loop import train
from oddsmill.train.model.frozen import join_params
from oddsmill.train.parallel.coordination import num_processes
from oddsmill.train.parallel.failures import telling_others
from oddsmill.train.parallel.processes import join_processes, together
from oddsmill.train.prepare import Run, prepare
from oddsmill.train.run_folder import export_checkpoint, restore_weights


class ORPOTrainer:
    """A run, ready to start: `.train()`, `.evaluate()`, `.save_pretrained(folder)`.

    Rows of text are preprocessed here, by the pipeline in a process of its own, into `run_dir/data`; the same rows and
    settings again find them there.

    Args:
      arguments: an ORPOConfig; or a TrainConfig, for preprocessed rows.
      model: a Hugging Face folder or hub id, whose weights the run starts from; or a ModelConfig.
      train_dataset: a preprocessed folder; or rows of text: a list of dicts, a `datasets.Dataset`, a file, a glob or
        `hf://org/name`. None: `arguments.data`.
      eval_dataset: held-out rows, likewise; of a preprocessed folder its eval split. None: the eval split of the train
        rows, which of rows of text is a share of their prompts (the pipeline's eval_share).
      processing_class: the tokenizer that rows of text are read with: a folder, a hub id, or an object of transformers,
        for its files and its chat template. None: the model's own. With preprocessed rows it must be theirs.
      data_collator: refused: the pipeline lays out the rows.

    Raises:
      Refused: these do not fit each other, or the pipeline refuses the rows.
    """

    def __init__(
        self,
        arguments: ORPOConfig | TrainConfig,
        model: str | os.PathLike[str] | ModelConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
    ):
        if data_collator is not None:
            raise Refused(
                "data_collator: rows are laid out once, by the pipeline, and read as they are. Its settings "
                "(max_length, preprocessing={'packing': False}, …) do what a collator is given for"
            )
        self._model = _model(model, arguments)
        for name, given, setting in (
            ("model", model, None if arguments.model == self._model else arguments.model),
            ("train_dataset", train_dataset, arguments.data),
            ("eval_dataset", eval_dataset, arguments.eval_data),
        ):
            if given is not None and setting and given != setting:
                raise Refused(
                    f"{name} is given twice: here, and as {setting!r} in the arguments; leave one of them out"
                )
        self._processing_class, self._distributed = processing_class, arguments.distributed
        self._pipeline_settings = arguments.pipeline_settings() if isinstance(arguments, ORPOConfig) else {}
        self._is_preprocessing = False
        folders = RunFiles(arguments.run_dir).data
        if train_dataset is None:
            require(bool(arguments.data), "train_dataset", None, "give the rows: a preprocessed folder or rows of text")
            train_dataset = arguments.data
        share: dict[str, Any] = {}
        if eval_dataset is not None and not _is_preprocessed(train_dataset):
            if "eval_share" in self._pipeline_settings:
                raise Refused("preprocessing: eval_share has no effect with an eval_dataset; leave one of them out")
            share = {"eval_share": 0.0}
        data = self._preprocessed(train_dataset, folders / "train", "train_dataset", share)
        eval_data = arguments.eval_data
        if eval_dataset is not None:
            eval_data = self._preprocessed(eval_dataset, folders / "eval", "eval_dataset", {"eval_share": 1.0})
        if self._pipeline_settings and not self._is_preprocessing:
            names = ", ".join(sorted(self._pipeline_settings))
            raise Refused(f"{names}: no effect on rows that are preprocessed already; leave out, or preprocess anew")
        settings = {setting.name: getattr(arguments, setting.name) for setting in fields(TrainConfig)}
        self.arguments = TrainConfig(**settings | {"model": self._model, "data": data, "eval_data": eval_data})
        self._has_trained = False

    def train(self) -> dict[str, float]:
        """Trains, or goes on from the newest checkpoint in `run_dir`.

        It returns and raises what `oddsmill.train.loop.train` does.
        """
        with console_may_be_lost():
            evaluation = train(self.arguments)
        self._has_trained = True
        return evaluation

    def evaluate(self) -> dict[str, float]:
        """Returns the metrics of the eval split, keys `eval/…`.

        The weights are those of the newest checkpoint, or with load_best_model_at_end of the best; before there is a
        checkpoint those of step 0.

        Raises:
          Refused: there is no eval split, or the run kept no checkpoint of its end.
        """
        self._check_end_is_kept("evaluate", instead="train() returned its metrics")
        with together():
            run = prepare(self.arguments)
            evaluation = run.evaluation()
            if evaluation is None:
                raise Refused("evaluate: there is no eval split; give eval_dataset, or rows with an eval_share above 0")
            params, frozen = self._weights(run)
            with jax.set_mesh(run.program.mesh):
                return evaluation(join_params(params, frozen))

    def save_pretrained(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Writes the model that `evaluate` measures as a Hugging Face folder, with config, tokenizer and model card.

        Args:
          options: of oddsmill.train.config.export.ExportConfig, e.g. dtype="bfloat16".

        Raises:
          Refused: there is no checkpoint yet, or none of the end of the run, or the folder is not empty.
        """
        if options.get("checkpoint") is None:
            self._check_end_is_kept("save_pretrained", instead=f"train() left its model in {self.arguments.run_dir}")
        export_checkpoint(ExportConfig(run_dir=self.arguments.run_dir, out=os.fspath(folder), **options))

    def _weights(self, run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the trained weights that are measured, and the frozen ones."""
        folder = run.files.checkpoints
        if folder.is_dir():
            with Checkpoints(folder, identity=run.identity, save_total_limit=None) as checkpoints:
                has_checkpoint = bool(checkpoints.steps)
            if has_checkpoint:
                _, params, frozen = restore_weights(run, None)
                return params, frozen
        return run.initial_weights()

    def _check_end_is_kept(self, name: str, *, instead: str) -> None:
        """Refuses the newest checkpoint in place of later weights that were not kept."""
        settings = self.arguments
        if self._has_trained and not settings.do_last_save and not settings.load_best_model_at_end:
            raise Refused(f"{name}: with do_last_save=False no checkpoint of the end is kept; {instead}")

    def _preprocessed(self, dataset: Any, folder: Path, name: str, share: dict[str, Any]) -> str:
        """Returns the preprocessed folder of a dataset, which the pipeline makes of rows of text."""
        if _is_preprocessed(dataset):
            self._check_tokenizer(os.fspath(dataset), name)
            return os.fspath(dataset)
        join_processes(self._distributed)  # before JAX is asked anything
        with telling_others():  # they may have been given folders
            if num_processes() > 1:
                raise Refused(
                    f"{name}: one process preprocesses for all; run oddsmill pipeline once, and give its folder"
                )
        self._is_preprocessing = True
        tokenizer = tokenizer_settings(self._processing_class, self._model)
        settings = tokenizer | self._pipeline_settings | share
        if share.get("eval_share"):
            settings.pop("shuffle", None)  # source order is of the train split; an evaluation has no order
        data = preprocess_rows(dataset, folder, name=name, settings=settings)
        self._check_tokenizer(data, name)
        return data

    def _check_tokenizer(self, data: str, name: str) -> None:
        if isinstance(self._processing_class, (str, os.PathLike)):
            check_tokenizer_folder(Path(self._processing_class), data, name)
        elif self._processing_class is not None:
            check_processing_class(self._processing_class, read_manifest(data).tokenizer, name)


def _is_preprocessed(dataset: Any) -> bool:
    return isinstance(dataset, (str, os.PathLike)) and (Path(dataset) / MANIFEST_NAME).is_file()


def _model(model: Any, arguments: ORPOConfig | TrainConfig) -> ModelConfig:
    if model is None and arguments.model is not None:
        return arguments.model
    if isinstance(model, ModelConfig):
        return model
    if isinstance(model, (str, os.PathLike)):
        return ModelConfig(path=os.fspath(model))
    kind = "nothing" if model is None else f"a {type(model).__name__}"
    raise Refused(
        f"model is {kind}; give a Hugging Face folder or hub id, whose weights are read straight onto the devices, or "
        "ModelConfig(config=…) for random ones"
    )


def tokenizer_settings(processing_class: Any, model: ModelConfig) -> dict[str, Any]:
    """Returns the settings of the pipeline that choose a tokenizer.

    Raises:
      Refused: there is none, or it comes from no folder or hub id.
    """
    if processing_class is None and model.path:
        return {"tokenizer": model.path} | ({"tokenizer_revision": model.revision} if model.revision else {})
    if isinstance(processing_class, (str, os.PathLike)):
        return {"tokenizer": os.fspath(processing_class)}
    name = getattr(processing_class, "name_or_path", None)
    if not name:
        raise Refused("processing_class: give the tokenizer's folder or hub id, or a tokenizer loaded from one")
    template = getattr(processing_class, "chat_template", None)
    return {"tokenizer": name} | ({"chat_template": template} if isinstance(template, str) else {})


def check_tokenizer_folder(folder: Path, data: str, name: str) -> None:
    """Refuses a tokenizer's folder that makes other ids than those of the rows.

    Args:
      data: the folder of the rows, preprocessed.

    Raises:
      Refused: names what differs.
    """
    if (folder / "tokenizer.json").is_file():
        different = differences(read_manifest(data), Path(data) / TOKENIZER_FOLDER, folder)
        if different:
            raise Refused(
                f"processing_class: {name} was made with another tokenizer than that of {folder}; they differ in: "
                f"{', '.join(different)}. Leave it out"
            )


def check_processing_class(processing_class: Any, of_rows: TokenizerSummary, name: str) -> None:
    """Refuses a tokenizer object that is not the rows' own.

    Raises:
      Refused: its end, begin or size is another: it was changed in memory. A token for padding, which no row holds, may
        have been added to it.
    """
    size = len(processing_class)
    if getattr(processing_class, "pad_token_id", None) == size - 1 >= of_rows.vocab_size:
        size -= 1
    found = {id_name: getattr(processing_class, f"{id_name}_token_id") for id_name in ("bos", "eos")}
    expected = {"bos": of_rows.bos_id, "eos": of_rows.eos_id}
    if found != expected or size > of_rows.vocab_size:
        raise Refused(
            f"processing_class: {name} has ids {expected} of {of_rows.vocab_size}, the object {found} of "
            f"{len(processing_class)}: what was changed in memory is lost; save_pretrained it and give that folder"
        )
