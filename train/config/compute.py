"""How a step is computed: dtypes, attention, and what the backward pass computes again."""

from typing import Literal

from oddsmill.schemas.settings import setting, settings

# The names of the table in train/attention/choice.py; auto takes what suits the devices and the model. xla is block by
# block in plain JAX, vanilla holds all scores at once. Names as in EasyDeL.
AttentionMechanism = Literal["auto", "xla", "cudnn", "pallas", "splash", "vanilla"]
Dtype = Literal["float32", "bfloat16"]
ExportDtype = Literal["float32", "bfloat16", "float16"]
# True: all of a layer is computed again; False: nothing; else a name of jax.checkpoint_policies.
RematerializationPolicy = bool | Literal["dots_saveable", "dots_with_no_batch_dims_saveable"]


@settings()
class ComputeSettings:
    """How a step is computed."""

    param_dtype: Dtype = setting(
        "The dtype that trained weights are kept in. In bfloat16 a weight plus its update is rounded at random, right "
        "on average. The optimizer computes in float32 and keeps its state in float32, but for adamw_bf16.",
        default="float32",
    )
    compute_dtype: Dtype = setting("The dtype that matrix products take; reductions are float32.", default="float32")
    disable_dropout: bool = setting(
        "The dropout of the model's config.json is not applied; a lora.dropout is in any case. false: it is applied, "
        "in training steps alone.",
        default=True,
    )
    attn_mechanism: AttentionMechanism = setting(
        "How attention is computed: vanilla holds all scores of a row at once; xla those of a block of 64 queries and "
        "64 keys, and passes over the blocks that the packing empties; cudnn and pallas are kernels of GPUs, splash of "
        "TPUs. auto: splash on TPUs and cudnn on GPUs where they can do it, else xla where rows are blocks, else "
        "vanilla. Results are equal but for rounding. Rows should be a multiple of 128.",
        default="auto",
        may_change=True,
    )


@settings()
class RematerializationSettings:
    """Says what the backward pass computes again."""

    gradient_checkpointing: RematerializationPolicy = setting(
        "What of each layer the backward pass computes again: true, all of it, for the least memory; dots_saveable all "
        "but matrix products; dots_with_no_batch_dims_saveable all but those with weights; false nothing. The names "
        "are those of jax.checkpoint_policies.",
        default=True,
        may_change=True,
    )
