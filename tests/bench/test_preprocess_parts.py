"""A sample belongs to the part that its stack is in, and to none where the run has not begun or a thread waits."""

import pytest

from bench.preprocess_parts import OTHER, sum_samples

RUN = 'process 7:"python";<module> (bench/preprocess_sides.py:1);ours (bench/preprocess_sides.py:2)'
WORKER = 'process 8:"python";serve (oddsmill/pipeline/workers/worker.py:9);Chain.add (oddsmill/pipeline/chain.py:9)'


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (f"{WORKER};tokenize_batch (oddsmill/pipeline/tokens/tokenization.py:1)", "ids"),
        (f"{WORKER};Tokenizer.encode_flat (oddsmill/schemas/chat/tokenizer.py:1);f (oddsmill/x.py:1)", "encode"),
        (f"{WORKER};write_shard (oddsmill/pipeline/output/shards.py:1)", "compress and write"),
        (f"{WORKER};write_shard (oddsmill/pipeline/output/shards.py:1);sort (numpy/x.py:1)", "sort and check shards"),
        (f"{RUN};timed (bench/preprocess_sides.py:3);f (apache_beam/pipeline.py:1)", "Beam"),
        (f"{RUN};timed (bench/preprocess_sides.py:3);_find (<frozen importlib._bootstrap>:1)", "imports"),
        (f"{RUN};_find (<frozen importlib._bootstrap>:1)", None),
        (f"{WORKER};Condition.wait (threading.py:331)", None),
        (f"{WORKER};Popen._wait (subprocess.py:2040)", None),
        (f"{WORKER};FastEngine.__init__ (oddsmill/schemas/engines/fast.py:54)", "start of the run"),
        (f"{WORKER};Connection._send (multiprocessing/connection.py:384)", "between processes"),
        (WORKER, OTHER),
    ],
)
def test_a_sample_belongs_to_its_part(stack: str, part: str | None):
    assert sum_samples([f"{stack} 3"]) == ({part: 3} if part else {})


def test_a_command_of_several_lines_is_no_sample():
    lines = f'process 8:"python -c if True:\n  import x";{WORKER};add (oddsmill/pipeline/tokens/x.py:1) 3'.splitlines()
    assert sum_samples(lines) == {"ids": 3}
