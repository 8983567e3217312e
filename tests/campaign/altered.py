"""A finished dataset with a file of it altered: whoever reads it refuses it, or reads what was written.

Two attacks: `manifests` alters values of manifest.json, run.json and lines of rejects/, some such that the manifest's
own digest is right again; `bytes` alters each byte of the small files, and random ones of the large files.
"""

import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from oddsmill.pipeline import PreprocessConfig, SourceConfig, preprocess
from oddsmill.pipeline.commands.inspect import InspectConfig, inspect_dataset
from oddsmill.pipeline.commands.report import ReportConfig, write_report
from oddsmill.pipeline.commands.verify import VerifyConfig, verify_dataset
from oddsmill.schemas.console import log
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, parse_manifest
from oddsmill.train.data.dataset import open_train_data
from oddsmill.train.data.loader import stored_rows
from oddsmill.train.data.provenance import read_places
from oddsmill.train.data.verified_shards import verify_shards
from tests.campaign.drawn_json import alter
from tests.campaign.harness import Attack, Attempt, Case
from tests.campaign.kills import write_inputs
from tests.campaign.templates import TOKENIZER

LARGE = 4096  # bytes; of larger files some are altered
RANDOM_BYTES = 1000
OWN_DIGEST = "manifest_sha256"


class Dataset(NamedTuple):
    """A finished dataset, and the run that made it.

    Attributes:
      files: the content of each file.
      shown: what `inspect --json` prints of it.
    """

    folder: Path
    config: PreprocessConfig
    files: dict[str, bytes]
    shown: str

    @property
    def manifest(self) -> Manifest:
        """The manifest as it was written."""
        return parse_manifest(self.files["manifest.json"], path="manifest.json")

    def write(self, name: str, content: bytes) -> None:
        """Puts other content in the place of a file."""
        (self.folder / name).write_bytes(content)


def make_dataset(folder: Path) -> Dataset:
    """Makes a dataset of some hundred pairs, with drops of every kind, two splits, several shards."""
    write_inputs(folder / "in")
    config = PreprocessConfig(
        source=SourceConfig(path=str(folder / "in" / "*")),
        tokenizer=str(TOKENIZER),
        output=str(folder / "out"),
        max_length=32,
        overlong="drop",
        dedup="exact",
        eval_share=0.2,
        num_shards=2,
    )
    preprocess(config)
    out = folder / "out"
    files = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    return Dataset(out, config, files, inspected(out))


def inspected(folder: Path) -> str:
    """Returns what `inspect --json` prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        inspect_dataset(InspectConfig(dataset=str(folder), json=True))
    return printed.getvalue()


def accepts(read: Callable[[], Any]) -> bool:
    """Tells whether a reader takes what it finds; whatever it raises but a refusal passes."""
    try:
        read()
    except Refused:
        return False
    return True


@contextmanager
def altered(dataset: Dataset, name: str, content: bytes) -> Iterator[None]:
    """Puts other content in the place of a file for the time of the body."""
    dataset.write(name, content)
    try:
        yield
    finally:
        dataset.write(name, dataset.files[name])


def check_readers(case: Case, dataset: Dataset, name: str, *, forged: bool = False) -> bool:
    """Lets all that reads a dataset read it with a file altered.

    Args:
      forged: what is altered has the digest that it should have; then no reader can know all of it.

    Returns: `verify` passes.
    """
    folder = str(dataset.folder)
    passes = accepts(lambda: verify_dataset(VerifyConfig(dataset=folder)))
    case.saw(f"{name.partition('/')[0]}: verify {'passes' if passes else 'refuses'}")
    trains = accepts(lambda: _train(folder))
    if passes or case.rng.random() < 0.2:
        shown = None
        with contextlib.suppress(Refused):
            shown = inspected(dataset.folder)
        case.expect(forged or not passes or shown == dataset.shown, "inspect shows what was written")
    if case.rng.random() < 0.1:
        accepts(lambda: write_report(ReportConfig(dataset=folder, out=f"{folder}.html")))
    if passes and not forged:
        case.expect(trains, "the trainer takes what verify passes")
    case.saw(f"{name.partition('/')[0]}: the trainer {'takes it' if trains else 'refuses'}")
    return passes


def _train(folder: str) -> None:
    data = open_train_data(folder)
    verify_shards([data], {})
    len(stored_rows(folder, data.manifest, "train"))
    read_places(folder, data.manifest, "train")


@contextmanager
def prepare_manifests(folder: Path) -> Iterator[Attempt]:
    """Makes the dataset whose values are altered."""
    log.setLevel("CRITICAL")
    dataset = make_dataset(folder)
    documents = {name: json.loads(dataset.files[name]) for name in ("manifest.json", "run.json")}
    lines = {name: content.splitlines() for name, content in dataset.files.items() if name.startswith("rejects/")}

    def attempt(case: Case) -> None:
        rng = case.rng
        name = rng.choice(["manifest.json"] * 6 + ["run.json"] * 2 + ["rejects"])
        if name == "rejects":
            name = rng.choice([*lines])
            content = _alter_line(case, rng, lines[name])
            with altered(dataset, name, content):
                passes = check_readers(case, dataset, name)
            case.expect(not passes or says_the_same(name, dataset.files[name], content), "verify notices another line")
            return
        document = copy.deepcopy(documents[name])
        for _ in range(rng.choice((1, 1, 2))):
            document, what = alter(rng, document)
            case.did(f"{name}: {what}")
        try_document(case, dataset, name, documents[name], document)

    yield attempt


def try_document(case: Case, dataset: Dataset, name: str, original: Any, document: Any) -> None:
    """Reads the dataset with one of its JSON documents altered; of a manifest, also with its own digest made right."""
    is_manifest = name == "manifest.json"
    forged = is_manifest and isinstance(document, dict) and OWN_DIGEST in document and case.rng.random() < 0.5
    if forged:
        del document[OWN_DIGEST]
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        document[OWN_DIGEST] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
        case.did("its own digest is that of the altered text")
    content = json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
    parsed = None
    with contextlib.suppress(Refused):
        parsed = parse_manifest(content, path=name) if is_manifest else None
    if is_manifest and parsed is None:
        case.saw("manifest.json: refused when it is parsed")
        if case.rng.random() > 0.05:  # all readers begin so
            return
    same = document == original or parsed == dataset.manifest
    with altered(dataset, name, content):
        passes = check_readers(case, dataset, name, forged=forged)
        case.expect(same or forged or not passes, "verify notices an altered value")
        if forged and not same:
            case.saw(f"manifest.json: of another content and its digest, verify {'passes' if passes else 'refuses'}")
        if case.rng.random() < (0.02 if is_manifest else 0.2):
            _run_again(case, dataset)


def _run_again(case: Case, dataset: Dataset) -> None:
    """Runs the same command over the altered dataset: it is refused, or what is there afterwards is what was."""
    try:
        preprocess(dataset.config)
    except Refused:
        case.saw("run again: refused")
    else:
        case.saw("run again: taken or made anew")
    if accepts(lambda: verify_dataset(VerifyConfig(dataset=str(dataset.folder)))):
        case.expect(inspected(dataset.folder) == dataset.shown, "the same command gives the same rows")
    for name, content in dataset.files.items():
        (dataset.folder / name).parent.mkdir(exist_ok=True)
        dataset.write(name, content)


def _alter_line(case: Case, rng: random.Random, lines: list[bytes]) -> bytes:
    at = rng.randrange(len(lines))
    document, what = alter(rng, json.loads(lines[at]))
    case.did(f"line {at} of rejects: {what}")
    return b"\n".join([*lines[:at], json.dumps(document).encode(), *lines[at + 1 :]]) + b"\n"


class Point(NamedTuple):
    """A byte of a file."""

    name: str
    at: int


@contextmanager
def prepare_bytes(folder: Path) -> Iterator[Attempt]:
    """Lists the bytes: all of the small files, some of the large ones. Seeds in a row try them in turn."""
    log.setLevel("CRITICAL")
    dataset = make_dataset(folder)
    rng, points = random.Random(0), list[Point]()
    for name, content in dataset.files.items():
        size = len(content)
        places = range(size) if size <= LARGE else sorted(rng.sample(range(size), min(size, RANDOM_BYTES)))
        points += [Point(name, at) for at in places]
    rng.shuffle(points)

    def attempt(case: Case) -> None:
        name, at = points[case.seed % len(points)]
        content = bytearray(dataset.files[name])
        before = content[at]
        content[at] = before ^ case.rng.choice((1, 2, 4, 32, 128, case.rng.randrange(1, 256)))
        case.did(f"{name}: byte {at} of {len(content)}, {before:#04x} -> {content[at]:#04x}")
        with altered(dataset, name, bytes(content)):
            if check_readers(case, dataset, name):
                case.expect(says_the_same(name, dataset.files[name], bytes(content)), "verify notices an altered byte")
                case.saw(f"{name.partition('/')[0]}: says the same")

    yield attempt
    shutil.rmtree(folder / "in")


def says_the_same(name: str, before: bytes, after: bytes) -> bool:
    """Tells whether an altered file says what it said: the same values in JSON, the same lines in a table."""
    try:
        if name.endswith(".json"):
            return bool(json.loads(before) == json.loads(after))
        if name.endswith(".jsonl"):
            return [*map(json.loads, before.splitlines())] == [*map(json.loads, after.splitlines())]
    except ValueError:
        return False
    return False


MANIFESTS = Attack("a dataset with an altered value: refused, or read as it was written", prepare=prepare_manifests)
BYTES = Attack("a dataset with an altered byte: refused, or read as it was written", prepare=prepare_bytes)
