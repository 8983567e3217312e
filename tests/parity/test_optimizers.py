"""Learning rates beside transformers' schedulers, and twenty updates of each optimizer beside PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import Adafactor, get_scheduler

from oddsmill.train.config.model import ModelConfig
from oddsmill.train.config.train_config import TrainConfig
from oddsmill.train.step.optimizer import learning_rate_schedule, make_optimizer

pytestmark = pytest.mark.parity
PEAK = 3e-4
# lr_scheduler_type -> transformers' name where it has an end, and where it has none
SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "inverse_sqrt": "inverse_sqrt",
}


def config(**changes):
    return TrainConfig(**{"data": "d", "run_dir": "r", "model": ModelConfig(config="c"), **changes})


@pytest.mark.parametrize(("warmup", "num_steps"), [(0, 20), (1, 7), (5, 20), (19, 20)])
@pytest.mark.parametrize(
    ("kind", "name", "end"),
    [*((kind, name, 0.0) for kind, name in SCHEDULERS.items()), ("cosine", "cosine_with_min_lr", 1e-5)],
)
def test_every_learning_rate_is_that_of_transformers(kind, name, end, warmup, num_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    extra = {"scheduler_specific_kwargs": {"min_lr": end}} if end else {}
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=num_steps, **extra)
    expected = []
    for _ in range(num_steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = learning_rate_schedule(
        config(learning_rate=PEAK, learning_rate_end=end, lr_scheduler_type=kind, warmup_steps=warmup), num_steps
    )
    np.testing.assert_allclose([ours(step) for step in range(num_steps)], expected, rtol=1e-12, atol=1e-18)
    traced = [float(jax.jit(ours)(jnp.float32(step))) for step in range(num_steps)]
    np.testing.assert_allclose(traced, expected, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        ({"optim": "adamw"}, lambda weights: torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1)),
        (
            {"optim": "adamw", "adam_beta1": 0.8, "adam_beta2": 0.95, "adam_epsilon": 1e-3},
            lambda weights: torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.1, betas=(0.8, 0.95), eps=1e-3),
        ),
        (
            {"optim": "adafactor"},
            lambda weights: Adafactor(
                weights, lr=1e-2, weight_decay=0.1, scale_parameter=False, relative_step=False, warmup_init=False
            ),
        ),
        ({"optim": "sgd", "weight_decay": 0.0}, lambda weights: torch.optim.SGD(weights, lr=1e-2)),
    ],
)
def test_twenty_updates_are_those_of_pytorch(settings, theirs):
    """A stack of two layers, large enough that adafactor factors them, and a table; gradients from far apart scales."""
    rng = np.random.default_rng(0)
    shapes = {"layers": (2, 144, 130), "table": (150, 128)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [
        {
            name: (rng.normal(size=shape) * 10.0 ** rng.integers(-4, 1)).astype(np.float32)
            for name, shape in shapes.items()
        }
        for _ in range(20)
    ]
    layers = [torch.nn.Parameter(torch.tensor(layer)) for layer in params["layers"]]
    weights = [*layers, torch.nn.Parameter(torch.tensor(params["table"]))]
    reference = theirs(weights)
    for gradient in gradients:
        for weight, value in zip(weights, [*gradient["layers"], gradient["table"]], strict=True):
            weight.grad = torch.tensor(value)
        reference.step()

    options = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "max_grad_norm": None, "weight_decay": 0.1}
    optimizer = make_optimizer(config(**{**options, **settings}), 20)
    ours = {
        "layers": {"q_proj": {"weight": jnp.array(params["layers"])}},
        "lm_head": {"weight": jnp.array(params["table"])},
    }
    state = optimizer.init(ours)
    for gradient in gradients:
        tree = {"layers": {"q_proj": {"weight": gradient["layers"]}}, "lm_head": {"weight": gradient["table"]}}
        updates, state = optimizer.update(tree, state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
    found = [*ours["layers"]["q_proj"]["weight"], ours["lm_head"]["weight"]]
    for weight, value in zip(weights, found, strict=True):
        np.testing.assert_allclose(value, weight.detach().numpy(), rtol=1e-4, atol=1e-5)
