"""How a step is computed."""

from typing import Literal

# xla: block by block in plain JAX; vanilla: all scores at once. Names as in EasyDeL. In a Decoder, auto is xla where
# rows are blocks, else vanilla; a run takes a kernel for it where it can (train/attention/choice.py).
AttentionMechanism = Literal["auto", "xla", "cudnn", "pallas", "splash", "vanilla"]
