"""Which mechanism of attention a run takes, and why not another one."""

from collections.abc import Sequence
from functools import partial

from oddsmill.schemas.errors import Refused
from oddsmill.train.attention import splash as attention_splash
from oddsmill.train.attention import triton as attention_triton
from oddsmill.train.attention.blocks import BLOCK, can_be_blockwise
from oddsmill.train.config.compute import AttentionMechanism
from oddsmill.train.model.hf_config import DecoderConfig

# What auto takes: the first of its platform that can do it; else blocks in plain JAX where rows are blocks. Pallas is
# not among them until it has been timed beside cuDNN.
_PREFERRED: dict[str, tuple[AttentionMechanism, ...]] = {"gpu": ("cudnn",), "tpu": ("splash",)}


def obstacle(
    mechanism: AttentionMechanism,
    config: DecoderConfig,
    *,
    platform: str,
    dtype: str,
    row_lengths: Sequence[int],
    compute_capability: str | None = None,
) -> str | None:
    """Why this mechanism cannot compute the attention of such a model and rows; None where it can.

    Args:
      platform: of the devices, as JAX calls it.
      dtype: the compute dtype.
      row_lengths: of all rows, in slots.
      compute_capability: of GPUs, as JAX gives it: "9.0"; those of AMD have names. None: not known.
    """
    if mechanism in ("auto", "vanilla"):
        return None
    if config.attention_dropout:
        return "it has no attention dropout"
    dim, longest = config.head_dim, max(row_lengths)
    has_window = any(window is not None and window < longest for window in config.windows)
    multiple = {"xla": BLOCK, "cudnn": 2, "pallas": attention_triton.BLOCK, "splash": attention_splash.BLOCKS[-1]}
    lengths = ", ".join(f"{length}" for length in row_lengths)
    wants_rows = f"rows have {lengths} slots; it wants a multiple of {multiple[mechanism]}"
    if mechanism == "xla":
        fits = all(can_be_blockwise(length) for length in row_lengths)
        return None if fits else f"{wants_rows} above it. Preprocess with such a --row_length"
    wanted = "tpu" if mechanism == "splash" else "gpu"
    if platform != wanted:
        return f"it is for {wanted.upper()}s; the devices are {platform.upper()}s"
    if platform == "gpu" and compute_capability and not _is_ampere_or_later(compute_capability):
        return f"it is for NVIDIA's GPUs of compute capability 8.0 and later; the devices have {compute_capability}"
    if any(length % multiple[mechanism] for length in row_lengths):
        return f"{wants_rows}. Preprocess with such a --row_length"
    if mechanism == "cudnn" and dtype != "bfloat16":
        return f"it computes in bfloat16 alone, and --compute_dtype={dtype}"
    if mechanism == "cudnn" and config.attn_logit_softcapping is not None:
        return "it has no soft cap (attn_logit_softcapping in config.json)"
    if mechanism == "cudnn" and (dim > 128 or dim % 8):
        return f"heads have {dim} dimensions; it wants a multiple of 8, at most 128"
    if mechanism == "pallas" and (dim & (dim - 1) or not 16 <= dim <= 256):
        return f"heads have {dim} dimensions; it wants a power of two from 16 to 256"
    if mechanism == "splash" and has_window:
        return "it has no sliding window that counts from a pair's own beginning (sliding_window in config.json)"
    return None


def _is_ampere_or_later(compute_capability: str) -> bool:
    major = compute_capability.split(".")[0]
    return major.isdecimal() and int(major) >= 8


def choose_mechanism(
    requested: AttentionMechanism,
    config: DecoderConfig,
    *,
    platform: str,
    dtype: str,
    row_lengths: Sequence[int],
    compute_capability: str | None = None,
) -> AttentionMechanism:
    """The mechanism of a run; arguments as in `obstacle`.

    Raises:
      Refused: the one that was asked for cannot do it.
    """
    problem_of = partial(
        obstacle,
        config=config,
        platform=platform,
        dtype=dtype,
        row_lengths=row_lengths,
        compute_capability=compute_capability,
    )
    if requested == "auto":
        return next((name for name in _PREFERRED.get(platform, ()) if problem_of(name) is None), "auto")
    problem = problem_of(requested)
    if problem:
        raise Refused(f"--attn_mechanism={requested}: {problem}. Leave it out, and one that fits is taken")
    return requested
