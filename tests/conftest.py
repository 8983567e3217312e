"""Fixtures that all tests share: the shared data, a tiny tokenizer made here, files of rows."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from oddsmill.schemas.console import log
from tests.compilation import compile_quickly
from tests.installations import build, install, new_environment

ROOT = Path(__file__).parents[1]

# Machines are shared: how long a case takes says nothing.
hypothesis.settings.register_profile("unhurried", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("unhurried")
hypothesis.settings.register_profile("thousands", max_examples=3000, deadline=None)

SENTENCES = [
    "What is the capital of France? The capital of France is Paris, and I am glad to help you.",
    "Tell me a short story about a cat. Once there was a small cat, and it slept all day long.",
    "How do I bake bread? Mix flour, water, salt and yeast, then wait and bake it in the oven.",
    "\n\nHuman: Thanks for the help!\n\nAssistant: You are welcome. Is there anything else?",
]


def pytest_configure(config: pytest.Config) -> None:
    """Every worker, with the processes that its tests start, keeps what XLA has compiled: the same few programs mostly.

    Each has a folder of its own. JAX locks a folder only under a limit of size, and then reads through all of it at
    every program that it adds; without, one that is half written is compiled again, with a warning. Where the
    environment names a folder already, that is kept from run to run.

    Compiling, not computing, is what these tests wait for: LLVM optimizes little, each program is one module of it, and
    XLA writes that without the detour of its fusion emitters, in a quarter of the time. XLA's own passes stay the same,
    and with them the program that tests of compiled programs look at; TRL's curves are followed by programs compiled as
    in a run.

    A shell in the background or nohup lets signals be ignored, which the processes of tests would inherit.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    if not hasattr(config, "workerinput"):
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            folder = tempfile.mkdtemp(prefix="oddsmill-jax-")
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
            os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        os.environ |= {
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        compile_quickly()
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{config.workerinput['workerid']}"


@pytest.fixture(autouse=True)
def quiet_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that a test runs in this process shows its messages; the next test begins without."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    # Handlers of pytest are its own: it takes them away before this fixture ends.
    ours, level, propagate = {*log.handlers}, log.level, log.propagate
    yield
    for handler in {*log.handlers} - ours:
        log.removeHandler(handler)
    log.setLevel(level)
    log.propagate = propagate


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data and goldens: beside the repository, or where ODDSMILL_SHARED says.

    Tests that need it are skipped where it is absent, but not in CI: there, absence is a failure.
    """
    path = Path(os.environ.get("ODDSMILL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if path.is_dir():
        return path
    message = f"the shared data is not at {path}; set ODDSMILL_SHARED to its folder"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Path]:
    """Trains a byte-level tokenizer on a few sentences, which begins texts with BOS where it has one."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    def make(folder: Path, **config: Any) -> Path:
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(SENTENCES, trainer)
        if config.get("bos_token", "<s>"):
            tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"} | config
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder

    return make


@pytest.fixture(scope="session")
def tokenizer_folder(make_tokenizer: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny tokenizer with BOS, EOS and padding."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows as JSON lines; a row given as bytes is written as it is."""

    def write(name: str, rows: Iterable[Any]) -> Path:
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path = tmp_path / name
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def triples() -> Callable[[int], list[dict[str, str]]]:
    """Different, well-formed rows of the format `triple`, of different lengths; three a prompt."""

    def make(count: int) -> list[dict[str, str]]:
        return [
            {
                "prompt": f"Question {number // 3}: " + SENTENCES[number // 3 % 3][: 20 + number // 3 % 40],
                "chosen": f" Answer {number}. " + "Yes, certainly. " * (number % 7),
                "rejected": f" No {number}. " + "Perhaps not. " * (number % 5),
            }
            for number in range(count)
        ]

    return make


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of a wheel, copied: a build leaves files in the folder, and takes what an earlier one has left."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "README.md", "LICENSE", "oddsmill", "schemas", "pipeline", "train"):
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def stage(wheel: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes an environment with one extra alone, at the versions of the lock; returns its interpreter."""
    constraints = tmp_path / "constraints.txt"
    pins = re.findall(r"^([a-z0-9._-]+==[^ ;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    constraints.write_text("\n".join(pins))

    def make(extra: str) -> Path:
        python = new_environment(tmp_path / extra)
        install(python, "--constraint", constraints, f"oddsmill[{extra}] @ {wheel.as_uri()}")
        return python

    return make
