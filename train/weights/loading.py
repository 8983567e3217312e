"""Loads a model folder as a decoder on the mesh, for generation and evaluation."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.model.names import Params
from oddsmill.train.parallel.sharding import batch_sharding, param_shardings
from oddsmill.train.weights.huggingface import load_params


def load_decoder(
    folder: Path, config: DecoderConfig, mesh: Mesh, *, param_dtype: str, compute_dtype: str
) -> tuple[nnx.GraphDef, Params]:
    """Returns the decoder's definition and its weights, sharded by the table of train/parallel/sharding.py.

    Args:
      config: the decoder that the folder's config.json describes.
      param_dtype: dtype in which weights are kept.
      compute_dtype: dtype of the inputs of matrix products.

    Raises:
      Refused: the weights do not fit the config or the mesh.
    """
    rows = batch_sharding(mesh)
    decoder = partial(
        Decoder,
        config,
        param_dtype=jnp.dtype(param_dtype),
        compute_dtype=jnp.dtype(compute_dtype),
        constrain=lambda x: jax.lax.with_sharding_constraint(x, rows),
    )
    definition, weights = nnx.split(nnx.eval_shape(lambda: decoder(rngs=nnx.Rngs(0))))
    shapes = nnx.to_pure_dict(weights)
    layers = config.num_hidden_layers
    return definition, load_params(folder, shapes, param_shardings(shapes, mesh), num_layers=layers)
