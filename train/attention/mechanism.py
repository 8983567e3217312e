"""A mechanism, one way to compute attention, as a record; each module beside this one that computes attention has one.

Axes: B = rows, L = positions of a row, N = query heads, K = key-value heads, H = head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax

from oddsmill.train.attention.mask import Keys


class WholeRows(NamedTuple):
    """The attention of whole rows: as many keys as queries, each at its own index.

    Attributes:
      query_BLNH, key_BLKH, value_BLKH: rotated queries and keys, values; N is a multiple of K.
      keys: what the mask is made of; queries have the keys' positions.
      window: int32 scalar, a query sees keys less than this many positions back; None: all.
    """

    query_BLNH: jax.Array
    key_BLKH: jax.Array
    value_BLKH: jax.Array
    keys: Keys
    window: jax.Array | None


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The attention of a run, as far as the limits of mechanisms depend on it.

    Attributes:
      platform: of the devices, as JAX calls it.
      compute_capability: of GPUs, as JAX gives it: "9.0"; those of AMD have names. None: not known.
      dtype: the compute dtype.
      row_lengths: of all rows, in slots.
      windows: the sliding window of each layer; None: it has none.
      softcap: of the scores; None: they have none.
      dropout: rate of the dropout of attention weights.
    """

    platform: str
    compute_capability: str | None = None
    dtype: str
    row_lengths: tuple[int, ...]
    head_dim: int
    windows: tuple[int | None, ...] = ()
    softcap: float | None = None
    dropout: float = 0.0

    @property
    def has_window(self) -> bool:
        """A sliding window of some layer is shorter than the longest row."""
        longest = max(self.row_lengths)
        return any(window is not None and window < longest for window in self.windows)


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """One way to compute attention.

    Attributes:
      name: its value of --attn_mechanism.
      compute: (rows, scale, softcap) -> [B, L, N, H] in the values' dtype. Scores are the dot products times `scale`;
        with a softcap, s becomes softcap * tanh(s / softcap). Padding positions are finite and mean nothing.
      platform: of the devices that it runs on, as JAX calls it; None: any.
      length_multiple: rows are a multiple of this long.
      shortest_row: and at least this long.
      limits: why it cannot compute a workload besides its platform and the rows' length; None: it can.
      drops_weights: it has dropout of attention weights.
      causal_passes: it computes the scores of all earlier keys so many times, whichever of them the mask hides, which
        counts FLOPs; None: about those that the mask shows, once.
      split_by_xla: XLA spreads it over a mesh by itself. The others run on each device for the rows and heads there:
        XLA cannot split a kernel's call, and which blocks are passed over differs from row to row.
    """

    name: str
    compute: Callable[[WholeRows, float, float | None], jax.Array]
    platform: str | None = None
    length_multiple: int = 1
    shortest_row: int = 1
    limits: Callable[[Workload], str | None] = lambda workload: None
    drops_weights: bool = False
    causal_passes: int | None = None
    split_by_xla: bool = False

    def takes_length(self, row_length: int) -> bool:
        return row_length % self.length_multiple == 0 and row_length >= self.shortest_row

    def obstacle(self, workload: Workload) -> str | None:
        """Why it cannot compute this workload, as the end of a message; None where it can."""
        if workload.dropout and not self.drops_weights:
            return "it has no attention dropout"
        if self.platform not in (None, workload.platform):
            return f"it is for {self.platform.upper()}s; the devices are {workload.platform.upper()}s"
        if not all(map(self.takes_length, workload.row_lengths)):
            lengths = ", ".join(map(str, workload.row_lengths))
            above = " above it" if self.shortest_row > self.length_multiple else ""
            return (
                f"rows have {lengths} slots; it wants a multiple of {self.length_multiple}{above}. "
                "Preprocess with such a --row_length"
            )
        return self.limits(workload)


def older_gpu(workload: Workload) -> str | None:
    """The obstacle that the GPUs are not NVIDIA's or older than Ampere; None where they will do or are not known."""
    capability = workload.compute_capability
    major = (capability or "8.0").split(".")[0]
    if major.isdecimal() and int(major) >= 8:
        return None
    return f"it is for NVIDIA's GPUs of compute capability 8.0 and later; the devices have {capability}"
