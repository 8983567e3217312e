"""The decoder, configured by a Hugging Face config.json. Its parts are in layers.py.

The layers are stacked on a leading axis and scanned: one compiled layer, whatever the depth.

Axes: B = rows, L = positions, M = slots of keys (L, or the cache's), D = hidden size, V = vocabulary.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from oddsmill.train.attention.mask import Keys
from oddsmill.train.attention.mechanism import Mechanism
from oddsmill.train.attention.vanilla import softcapped
from oddsmill.train.attention.xla import XLA
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.model.layers import Cache, Embedding, Layer, PerLayerInputs, RMSNorm
from oddsmill.train.model.rope import rope_frequencies


def per_layer_inputs(config: DecoderConfig, dropout_B: jax.Array | None) -> PerLayerInputs:
    """Per-layer inputs, stacked on a leading axis for the scan.

    Args:
      dropout_B: one key a row for the whole decoder; None drops nothing.
    """
    layers = config.num_hidden_layers
    dropout = None if dropout_B is None else jax.vmap(lambda key: jax.random.split(key, layers), out_axes=1)(dropout_B)
    frequencies = np.stack([rope_frequencies(rope, config.head_dim) for rope in config.ropes])
    if not any(config.windows):
        return PerLayerInputs(jnp.asarray(frequencies), None, dropout)
    unlimited = np.iinfo(np.int32).max
    windows = np.array([window or unlimited for window in config.windows], np.int32)
    return PerLayerInputs(jnp.asarray(frequencies), jnp.asarray(windows), dropout)


class Decoder(nnx.Module):
    """Maps token ids to hidden states. The head stays apart: the loss fuses it (loss/fused_head.py).

    Args:
      config: the decoder's fields.
      param_dtype: the dtype that weights are stored in.
      compute_dtype: the dtype of hidden states and of the inputs of matrix products; reductions are float32 or wider.
      attn_mechanism: computes the attention of whole rows (train/attention/attention.py).
      remat: recompute each layer in the backward pass instead of keeping its activations: True all of it, a name all
        but what this policy of jax.checkpoint_policies keeps.
      constrain: called on the hidden states between layers, to pin their sharding.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: jnp.dtype = jnp.float32,
        compute_dtype: jnp.dtype = jnp.float32,
        attn_mechanism: Mechanism = XLA,
        remat: bool | str = False,
        constrain: Callable[[jax.Array], jax.Array] = lambda x: x,
    ):
        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=0, out_axes=0)
        def stacked_layers(rngs: nnx.Rngs) -> Layer:
            return Layer(config, attn_mechanism=attn_mechanism, dtype=param_dtype, rngs=rngs)

        self.embed_tokens = Embedding(config, zero_row=config.pad_token_id, dtype=param_dtype, rngs=rngs)
        self.layers = stacked_layers(rngs)
        self.norm = RMSNorm(config.hidden_size, config, dtype=param_dtype)
        self.lm_head = None if config.tie_word_embeddings else Embedding(config, dtype=param_dtype, rngs=rngs)
        self.config = config
        self.compute_dtype = compute_dtype
        self.remat = remat
        self.constrain = constrain

    def __call__(
        self,
        inputs_BL: jax.Array,
        position_BL: jax.Array,
        end_BL: jax.Array,
        dropout_B: jax.Array | None = None,
    ) -> jax.Array:
        """Hidden states [B, L, D] after the last norm, in the compute dtype.

        Args:
          position_BL, end_BL: int32, as in `Keys`.
          dropout_B: one key a row, for the dropout of the config and of adapters; None drops nothing.
        """
        keys = Keys(position=position_BL, end=end_BL)
        return self.extend(inputs_BL, position_BL, keys, None, dropout_B)[0]

    def extend(
        self,
        inputs_BL: jax.Array,
        position_BL: jax.Array,
        keys: Keys,
        cache: Cache | None,
        dropout_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """Does what `__call__` does, after the tokens whose keys and values are in the cache.

        Args:
          keys: positions and ends of every slot of the cache, M of them; without a cache M = L.

        Returns: hidden states [B, L, D], and the cache with these tokens in it.
        """
        definition, weights = nnx.split(self.layers)

        def one_layer(
            x_BLD: jax.Array, layer: tuple[nnx.State, PerLayerInputs, Cache | None]
        ) -> tuple[jax.Array, Cache | None]:
            layer_weights, per_layer, layer_cache = layer
            x_BLD, layer_cache = nnx.merge(definition, layer_weights)(x_BLD, position_BL, keys, per_layer, layer_cache)
            return self.constrain(x_BLD), layer_cache

        x_BLD = self.embed_tokens(inputs_BL).astype(self.compute_dtype)
        if self.config.scaled_embedding:
            x_BLD *= jnp.asarray(self.config.hidden_size**0.5, self.compute_dtype)
        body = one_layer
        if self.remat:
            policy = getattr(jax.checkpoint_policies, self.remat) if isinstance(self.remat, str) else None
            # A loop keeps what is computed again apart by itself; barriers would keep XLA from fusing it.
            body = jax.checkpoint(one_layer, policy=policy, prevent_cse=False)
        scanned = weights, per_layer_inputs(self.config, dropout_B), cache
        x_BLD, cache = jax.lax.scan(body, self.constrain(x_BLD), scanned)
        return self.norm(x_BLD), cache

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Logits [..., V] of hidden states [..., D], in float32 or wider; for the loss see loss/fused_head.py."""
        acc_dtype = jnp.promote_types(hidden.dtype, jnp.float32)
        head_VD = self.head_VD.astype(hidden.dtype)
        logits = jnp.einsum("...d,vd->...v", hidden, head_VD, preferred_element_type=acc_dtype)
        return softcapped(logits, self.config.final_logit_softcapping)

    @property
    def head_VD(self) -> jax.Array:
        """The head's weight [V, D] in the param dtype: the embedding itself where the two are tied."""
        return (self.lm_head or self.embed_tokens).weight[...]
