"""How the tokens of an answer are chosen."""

from dataclasses import dataclass, fields

from oddsmill.schemas.errors import require


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Names, meanings and defaults are those of transformers' GenerationConfig.

    Args:
      max_new_tokens: the longest answer, its end included.
      do_sample: draw each token by its probability; false takes the most probable one.
      temperature: logits are divided by it.
      top_k: only the k most probable tokens can be drawn; 0 turns it off.
      top_p: only the fewest tokens that together have this probability can be drawn; 1 turns it off.
      repetition_penalty: tokens that stand in the prompt or the answer become less probable if it is above 1.
      num_return_sequences: answers a prompt.
      seed: of the draws. An answer depends on it, the prompt's number and its own, not on what it is batched with.
    """

    max_new_tokens: int = 256
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    num_return_sequences: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_return_sequences", "repetition_penalty"):
            require(getattr(self, name) > 0, name, getattr(self, name), "must be positive")
        require(self.temperature > 0, "temperature", self.temperature, "must be positive; greedy is --do_sample=false")
        require(0 <= self.top_p <= 1, "top_p", self.top_p, "must be in [0, 1]")
        require(self.top_k >= 0, "top_k", self.top_k, "must not be negative")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must be from 0 to 2**32 - 1")
        if not self.do_sample:
            default = {field.name: field.default for field in fields(SamplingConfig)}
            for name in ("temperature", "top_k", "top_p", "num_return_sequences", "seed"):
                value = getattr(self, name)
                require(value == default[name], name, value, "has no effect without --do_sample=true")
