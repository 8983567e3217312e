"""One side of bench/preprocess.py, in a process of its own: prints its seconds and its CPU seconds as JSON.

It reads what bench/preprocess.py wrote into a folder, and imports nothing of `bench`: the code of another checkout is
measured by the same file.

    python -P bench/preprocess_sides.py SIDE FOLDER TOKENIZER
"""

import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CORES = os.cpu_count() or 1
BATCH = 768
ROWS, FEW_ROWS, MAPPED_ROWS, TEXTS = "rows.jsonl", "few_rows.jsonl", "mapped_rows.jsonl", "texts.jsonl"
Measured = dict[str, Any]


def read_lines(path: Path) -> list[Any]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def timed(action: Callable[[], object]) -> Measured:
    """Runs something; returns its `seconds`, and the CPU seconds `main_cpu` of this process and `children_cpu`."""
    own = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    of_children = ended.ru_utime - children.ru_utime + ended.ru_stime - children.ru_stime
    return {"seconds": seconds, "main_cpu": time.process_time() - own, "children_cpu": of_children}


def ours(folder: Path, tokenizer: str, rows: str = ROWS, **settings: Any) -> Measured:
    """Measures a whole run with the settings that it has where none are given."""
    from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess

    importlib.import_module("apache_beam")  # takes 2.5 s, as the import of a tokenizer takes its own
    with tempfile.TemporaryDirectory(dir=folder) as output:
        source = SourceConfig(path=str(folder / rows))
        config = PreprocessConfig(source=source, tokenizer=tokenizer, output=f"{output}/dataset", **settings)
        measured = timed(lambda: preprocess(config))
        manifest = json.loads(Path(config.output, "manifest.json").read_text(encoding="utf-8"))
        return measured | {"engine": manifest.get("tokenizer_engine", "tokenizers")}


def encode_in_threads(folder: Path, tokenizer: str) -> Measured:
    """Measures nothing but `encode_batch_fast`, each call of which spreads over the cores."""
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    loaded, texts = tokenizers.Tokenizer.from_file(f"{tokenizer}/tokenizer.json"), read_lines(folder / TEXTS)
    return timed(lambda: encode(loaded, texts))


def encode_in_processes(folder: Path, tokenizer: str) -> Measured:
    """Measures nothing but `encode_batch_fast`, in as many processes as there are cores, which share no lock."""
    from multiprocessing import get_context

    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    loaded, texts = tokenizers.Tokenizer.from_file(f"{tokenizer}/tokenizer.json"), read_lines(folder / TEXTS)
    context = get_context("fork")
    start = context.Barrier(CORES + 1)

    def work(number: int) -> None:
        share = texts[number::CORES]
        start.wait()
        encode(loaded, share)

    processes = [context.Process(target=work, args=(number,)) for number in range(CORES)]
    for process in processes:
        process.start()
    start.wait()

    def wait() -> None:
        for process in processes:
            process.join()
            assert process.exitcode == 0

    return timed(wait)


def encode(tokenizer: Any, texts: list[str]) -> None:
    for first in range(0, len(texts), BATCH):
        tokenizer.encode_batch_fast(texts[first : first + BATCH], add_special_tokens=False)


def map_rows(folder: Path, tokenizer: str) -> Measured:
    """Measures `datasets.map` with the rule of TRL, one row at a time, in as many processes as there are cores."""
    import datasets
    import tokenizers

    datasets.disable_progress_bars()
    loaded = tokenizers.Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    render = Renderer(tokenizer)
    dataset = datasets.Dataset.from_list(read_lines(folder / MAPPED_ROWS))
    rule = partial(tokenize_row, tokenizer=loaded, render=render)
    return timed(lambda: dataset.map(rule, num_proc=CORES, load_from_cache_file=False, new_fingerprint="-"))


def tokenize_row(row: dict[str, Any], tokenizer: Any, render: Callable[..., str]) -> dict[str, list[int]]:
    """Tokenizes like TRL's tokenize_row: the prompt, then for each answer the whole text and the prompt again."""
    prompt = row["prompt"]
    wholes = {side: prompt + row[side] for side in ("chosen", "rejected")}
    if not isinstance(prompt, str):
        prompt = render(prompt, add_generation_prompt=True)
        wholes = {side: render(messages) for side, messages in wholes.items()}
    ids = {"prompt_ids": tokenizer.encode(prompt, add_special_tokens=False).ids}
    for side, whole in wholes.items():
        whole_ids = tokenizer.encode(whole, add_special_tokens=False).ids
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        size = len(prompt_ids) if prompt_ids == whole_ids[: len(prompt_ids)] else len(prompt_ids) - 1
        ids[f"{side}_ids"] = whole_ids[size:]
    return ids


class Renderer:
    """Renders messages with a tokenizer's chat template as transformers does; each process compiles its own."""

    def __init__(self, tokenizer: str):
        config = json.loads(Path(tokenizer, "tokenizer_config.json").read_text(encoding="utf-8"))
        self._source = config.get("chat_template", "")
        self._template: Any = None
        self._tokens = {name: text for name, text in config.items() if name in ("bos_token", "eos_token")}

    def __call__(self, messages: list[Any], *, add_generation_prompt: bool = False) -> str:
        if self._template is None:
            from jinja2.sandbox import ImmutableSandboxedEnvironment

            environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
            self._template = environment.from_string(self._source)
        options = self._tokens | {"add_generation_prompt": add_generation_prompt}
        return str(self._template.render(messages=messages, **options))


SIDES: dict[str, Callable[[Path, str], Measured]] = {
    "ours": ours,
    "ours, 100 rows": partial(ours, rows=FEW_ROWS),
    "ours, 100 rows, as many": partial(ours, rows=FEW_ROWS, tokenizer_engine="fastokens", dataset_num_proc=CORES),
    "ours, tokenizer_engine=tokenizers": partial(ours, tokenizer_engine="tokenizers"),
    "before": ours,
    "encode_batch_fast in threads": encode_in_threads,
    "encode_batch_fast in processes": encode_in_processes,
    "map": map_rows,
}

if __name__ == "__main__":
    side, data, tokenizer_folder = sys.argv[1:]
    print(json.dumps(SIDES[side](Path(data), tokenizer_folder)))
