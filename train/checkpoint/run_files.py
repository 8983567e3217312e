"""The names of all files and folders inside a run's folder."""

from pathlib import Path

from oddsmill.train.weights.sums import SUMS_FILE


class RunFiles:
    """Paths inside a run's folder; nothing is read or made here.

    Attributes:
      settings: the resolved settings of the newest start.
      manifest, eval_manifest: of the rows that are trained on; of those that are measured, where they are others.
      tokenizer: the folder of the tokenizer and the chat template that the rows were made with.
      model_config, generation_config: of the model that is trained, as they came in.
      verified_shards: which shards were compared with their digests already (train/data/verified_shards.py).
      checkpoints: one folder a step, by Orbax.
      metrics: one line of JSON a logged step.
      samples: one line of JSON a prompt and step.
      curves: a picture of the metrics.
      tensorboard, profile: folders that TensorBoard reads.
      wandb: which run of W&B this one is.
      sums: the digests of the files that describe the run.
      model, adapter: what the run leaves, as folders of Hugging Face and of PEFT.
      data: the folder of rows that ORPOTrainer preprocessed.
    """

    def __init__(self, run_dir: str | Path):
        self.folder = folder = Path(run_dir)
        self.settings = folder / "settings.yaml"
        self.manifest = folder / "manifest.json"
        self.eval_manifest = folder / "eval_manifest.json"
        self.tokenizer = folder / "tokenizer"
        self.model_config = folder / "config.json"
        self.generation_config = folder / "generation_config.json"
        self.verified_shards = folder / "verified_shards.json"
        self.checkpoints = folder / "checkpoints"
        self.metrics = folder / "metrics.jsonl"
        self.samples = folder / "samples.jsonl"
        self.curves = folder / "curves.png"
        self.tensorboard = folder / "tensorboard"
        self.profile = folder / "profile"
        self.wandb = folder / "wandb.json"
        self.sums = folder / SUMS_FILE
        self.model = folder / "export"
        self.adapter = folder / "adapter"
        self.data = folder / "data"

    def described_by(self) -> list[Path]:
        """Returns the files, of those that are there, that an export, an evaluation or a generation reads."""
        files = [self.settings, self.manifest, self.eval_manifest, self.model_config, self.generation_config]
        return [path for path in [*files, *sorted(self.tokenizer.rglob("*"))] if path.is_file()]

    def nonfinite_dump(self, step: int, process: int | None) -> Path:
        """The dump of a step that is not finite; `process` where several write one each."""
        suffix = "" if process is None else f"-process-{process}"
        return self.folder / f"nonfinite-step-{step}{suffix}.json"
