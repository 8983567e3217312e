"""How a step is computed."""

from typing import Literal

# The names of the table in train/attention/choice.py; auto takes what suits the devices and the model. xla is block by
# block in plain JAX, vanilla holds all scores at once. Names as in EasyDeL.
AttentionMechanism = Literal["auto", "xla", "cudnn", "pallas", "splash", "vanilla"]
