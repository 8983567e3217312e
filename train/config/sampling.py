"""How the tokens of an answer are chosen: by the verb `generate`, and by a run for its sample answers."""

from oddsmill.schemas.errors import Refused, require
from oddsmill.schemas.settings import facts_of, setting, settings


@settings()
class SamplingConfig:
    """How tokens are chosen. Names, meanings and defaults are those of transformers' GenerationConfig."""

    max_new_tokens: int = setting("The longest answer, its end included.", default=256, above=0)
    do_sample: bool = setting(
        "Each token is drawn by its probability; false takes the most probable one.",
        default=False,
    )
    temperature: float = setting("Logits are divided by it.", default=1.0, needs=("do_sample",))
    top_k: int = setting(
        "Only the k most probable tokens can be drawn; 0 turns it off.",
        default=50,
        at_least=0,
        needs=("do_sample",),
    )
    top_p: float = setting(
        "Only the fewest tokens that together have this probability can be drawn; 1 turns it off.",
        default=1.0,
        at_least=0,
        at_most=1,
        needs=("do_sample",),
    )
    repetition_penalty: float = setting(
        "Tokens that stand in the prompt or the answer become less probable if it is above 1.",
        default=1.0,
        above=0,
    )
    num_return_sequences: int = setting("Answers a prompt.", default=1, above=0, needs=("do_sample",))
    seed: int = setting(
        "The seed of the draws. An answer depends on it, the prompt's number and its own, not on what it is batched "
        "with.",
        default=0,
        at_least=0,
        at_most=2**32 - 1,
        needs=("do_sample",),
    )

    def check(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "must be positive; greedy is --do_sample=false")


def _help(name: str) -> str:
    return facts_of(SamplingConfig, name).help


@settings()
class SampleAnswerSettings:
    """Held-out prompts that a run answers before and after the training. Ranges are those of SamplingConfig."""

    generate_during_eval: bool = setting(
        "The prompts are answered at every evaluation too.",
        default=False,
        needs=("generation_num_prompts",),
        may_change=True,
    )
    generation_num_prompts: int = setting(
        "How many held-out prompts are answered before and after the training.",
        default=0,
        at_least=0,
        may_change=True,
    )
    generation_max_new_tokens: int = setting(
        _help("max_new_tokens"),
        default=64,
        needs=("generation_num_prompts",),
        may_change=True,
    )
    generation_do_sample: bool = setting(
        _help("do_sample"),
        default=SamplingConfig.do_sample,
        needs=("generation_num_prompts",),
        may_change=True,
    )
    generation_temperature: float = setting(
        _help("temperature"),
        default=SamplingConfig.temperature,
        needs=("generation_do_sample",),
        may_change=True,
    )
    generation_top_k: int = setting(
        _help("top_k"),
        default=SamplingConfig.top_k,
        needs=("generation_do_sample",),
        may_change=True,
    )
    generation_top_p: float = setting(
        _help("top_p"),
        default=SamplingConfig.top_p,
        needs=("generation_do_sample",),
        may_change=True,
    )
    generation_repetition_penalty: float = setting(
        _help("repetition_penalty"),
        default=SamplingConfig.repetition_penalty,
        needs=("generation_num_prompts",),
        may_change=True,
    )
    generation_seed: int = setting(
        _help("seed"),
        default=SamplingConfig.seed,
        needs=("generation_do_sample",),
        may_change=True,
    )

    def check(self) -> None:
        try:
            self.sampling  # noqa: B018
        except Refused as refusal:
            raise Refused(str(refusal).replace("--", "--generation_")) from None

    @property
    def sampling(self) -> SamplingConfig:
        """How the prompts are answered."""
        return SamplingConfig(
            max_new_tokens=self.generation_max_new_tokens,
            do_sample=self.generation_do_sample,
            temperature=self.generation_temperature,
            top_k=self.generation_top_k,
            top_p=self.generation_top_p,
            repetition_penalty=self.generation_repetition_penalty,
            seed=self.generation_seed,
        )
