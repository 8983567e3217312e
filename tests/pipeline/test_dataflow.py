"""Launching on Dataflow: what is refused first, and what is sent, as its runner writes it without a network."""

import importlib.metadata
import importlib.util
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oddsmill.pipeline import PreprocessConfig, SourceConfig
from oddsmill.pipeline.dataflow import check_libraries, names_dataflow, worker_requirements
from oddsmill.pipeline.resolved_run import resolve_run
from oddsmill.pipeline.runner import make_pipeline, run_graph
from oddsmill.schemas.errors import Refused

# These need [dataflow], eighty packages that the first minute of a newcomer shall not wait for: make test-slow has it.
slow = pytest.mark.slow
NEEDED = ("--runner=DataflowRunner", "--project=my-project", "--region=us-central1", "--temp_location=gs://bucket/tmp")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> tuple[dict[str, Any], Path]:
    """The job specification of a run, and the folder with what is staged for the workers."""
    folder = tmp_path_factory.mktemp("job")
    staging = folder / "staging"
    staging.mkdir()  # Beam tries for seven minutes to write to a folder that is not there
    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Tell me", "chosen": " a story", "rejected": " no"}) + "\n")
    config = PreprocessConfig(
        source=SourceConfig(path=str(rows)), tokenizer=str(tokenizer_folder), output="gs://bucket/out"
    )
    arguments = [
        *NEEDED[:3],
        "--no_auth",
        "--dataflow_endpoint=http://localhost:1",  # "localhost" lets Beam stage to a local folder
        f"--staging_location={staging}",
        f"--temp_location={folder}",
        f"--template_location={folder / 'job.json'}",
    ]
    run_graph(make_pipeline(config, arguments), resolve_run(config))
    return json.loads((folder / "job.json").read_text()), staging


@slow
def test_the_workers_get_our_package_its_libraries_and_nothing_of_the_trainer(job):
    _, staging = job
    (package,) = staging.rglob("workflow.tar.gz")
    with tarfile.open(package) as archive:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in archive.getnames()}
    assert {"oddsmill/pipeline/build.py", "oddsmill/schemas/record.py", "pyproject.toml"} <= names
    (requirements,) = staging.rglob("requirements.txt")
    lines = requirements.read_text().split()
    assert lines == worker_requirements()
    assert {"tokenizers", "array-record", "pyarrow", "numpy"} <= {line.partition("==")[0] for line in lines}
    assert all("==" in line for line in lines)
    assert not {"jax", "jaxlib", "flax", "grain", "apache-beam"} & {line.partition("==")[0] for line in lines}


@slow
def test_workers_hold_one_shard_a_process_and_get_no_pickled_session(job):
    specification, staging = job
    (pool,) = specification["environment"]["workerPools"]
    options = specification["environment"]["sdkPipelineOptions"]["options"]
    assert pool["numThreadsPerWorker"] == 1
    assert options["job_name"] == "oddsmill-preprocess"
    assert not options["save_main_session"]
    assert not list(staging.rglob("*main_session*"))


@pytest.mark.parametrize("missing", NEEDED[1:])
def test_an_option_that_dataflow_needs_is_asked_for(missing: str, tokenizer_folder: Path):
    config = PreprocessConfig(source=SourceConfig(path="x"), tokenizer="x", output="gs://bucket/out")
    name = missing.partition("=")[0]
    with pytest.raises(Refused, match=f"DataflowRunner needs {name};"):
        make_pipeline(config, [option for option in NEEDED if option != missing])


def test_files_of_this_machine_are_refused(
    command: Callable, write_rows: Callable, triples: Callable, tokenizer_folder: Path
):
    path = write_rows("rows.jsonl", triples(3))
    settings = [f"--source.path={path}", f"--tokenizer={tokenizer_folder}", f"--output={path.parent / 'out'}"]
    offline = ["--no_auth", "--dataflow_endpoint=http://localhost:1", f"--temp_location={path.parent}"]
    code, _, message = command("run", *settings, "--", *NEEDED[:3], *offline)
    assert code == 2
    assert "is on this machine, where no worker sees it; copy it to gs://" in message
    assert not (path.parent / "out").exists()


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        ([], False),
        (["--runner=FnApiRunner", "--project=dataflow"], False),
        (["--runner=DataflowRunner"], True),
        (["--runner", "dataflow"], True),
        (["--runner=apache_beam.runners.dataflow.dataflow_runner.DataflowRunner"], True),
        (["--runner=DataflowRunner", "--runner=DirectRunner"], False),
        (["--runner"], False),
    ],
)
def test_dataflow_is_known_by_all_its_names(flags: list[str], asked: bool):
    assert names_dataflow(flags) == asked


def test_workers_get_the_clients_of_stores_that_are_installed_here(monkeypatch: pytest.MonkeyPatch):
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "9.9" if name in ("gcsfs", "s3fs") else version(name)
    )
    for installed in ({"gcsfs"}, {"gcsfs", "s3fs"}, set()):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=installed: name in found or None)
        assert {line for line in worker_requirements() if "9.9" in line} == {f"{name}==9.9" for name in installed}


def test_a_worker_with_other_versions_is_refused():
    with pytest.raises(Refused, match="the bytes may differ"):
        check_libraries({"pyarrow": "0.1"})


@slow
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "there are no credentials for Google Cloud; log in by gcloud auth application-default login"),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "nowhere"}, "GOOGLE_APPLICATION_CREDENTIALS=nowhere: "),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "KEY"}, "Google Cloud cannot be reached ("),
    ],
)
def test_without_credentials_or_network_the_refusal_comes_at_once(
    command: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    message: str,
    tokenizer_folder: Path,
):
    key = tmp_path / "key.json"
    user = {"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}
    key.write_text(json.dumps(user))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))  # no login of this machine's user
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")  # nobody answers there
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("KEY", str(key)))
    settings = ["--source.path=gs://bucket/*.jsonl", f"--tokenizer={tokenizer_folder}", "--output=gs://bucket/out"]
    started = time.monotonic()
    code, _, err = command("run", *settings, "--", *NEEDED)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert time.monotonic() - started < 10


@slow
def test_a_store_that_does_not_answer_is_refused_at_once(command: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("HTTPS_PROXY", "http://localhost:1")
    started = time.monotonic()
    code, _, err = command("verify", "gs://bucket/out")
    assert code == 2
    assert err.startswith("refused: gs://bucket/out: Google Cloud cannot be reached (")
    assert time.monotonic() - started < 10
