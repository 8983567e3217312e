"""A model folder in, a decoder on the mesh out: for what answers or measures, and does not train."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from oddsmill.train.model.decoder import Decoder
from oddsmill.train.model.hf_config import DecoderConfig
from oddsmill.train.parallel.sharding import batch_sharding, param_shardings
from oddsmill.train.weights.huggingface import load_params


def load_decoder(
    folder: Path, config: DecoderConfig, mesh: Mesh, *, param_dtype: str, compute_dtype: str
) -> tuple[nnx.GraphDef, dict[str, Any]]:
    """The decoder's definition and its weights, each where the table of train/parallel/sharding.py says.

    Args:
      config: of the folder's config.json.
      param_dtype: what weights are kept in.
      compute_dtype: what matrix products take.

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
