"""Runs of two processes, one of which gets the signals: see `train_kills.py`."""

from functools import partial

from tests.campaign import train_kills

ATTACK = train_kills.ATTACK._replace(
    about="a run of two processes, one of which is killed, ends as one that never was",
    prepare=partial(train_kills.prepare_runs, processes=2),
)
