"""Stage two: rows to weights. A Grain loader feeds a sharded Flax trainer with the ORPO loss."""
