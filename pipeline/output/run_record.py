"""run.json: what the manifest must not depend on, as the inputs with their accounts, and where the run took place.

It has the digests of provenance/ and rejects/, which name the inputs, so that the manifest cannot have them; and its
own digest, beside which no byte of it can be altered.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from oddsmill.pipeline.output.folder import RUN_NAME
from oddsmill.schemas.errors import Refused
from oddsmill.schemas.manifest import Manifest, file_sha256
from oddsmill.schemas.stores import is_file, local_file, open_file
from oddsmill.schemas.typed_json import Malformed, parse_json

OWN_DIGEST = "run_sha256"
FILES = "files"


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the record of a run with its own digest."""
    return {**record, OWN_DIGEST: _digest(record)}


def read_run(folder: str) -> dict[str, Any] | None:
    """Reads run.json of a dataset; None where it is not there.

    Raises:
      Refused: it is damaged or was altered.
    """
    path = os.path.join(folder, RUN_NAME)
    if not is_file(path):
        return None
    try:
        with open_file(path) as file:
            record = parse_json(file.read())
        if not isinstance(record, dict):
            raise Malformed("it holds no object")
        digest, is_old = record.pop(OWN_DIGEST, None), FILES not in record  # earlier versions had neither
        if digest != _digest(record) and not (is_old and digest is None):
            raise Malformed(f"it was altered: its content has the sha256 {_digest(record)}, {OWN_DIGEST} is {digest}")
        inputs, files = record.get("inputs", []), record.get(FILES, {})
        if not isinstance(inputs, list) or any(type(_of(each, "digest")) is not str for each in inputs):
            raise Malformed("inputs is no list of files with their digests")
        if not isinstance(files, dict):
            raise Malformed(f"{FILES} is no object of digests")
    except Malformed as problem:
        raise Refused(f"{path} is damaged ({problem})") from problem
    return record


def run_problems(folder: str, manifest: Manifest) -> Iterator[str]:
    """Yields a line for each thing that run.json says otherwise of a dataset than its files do."""
    try:
        record = read_run(folder)
    except Refused as refused:
        yield str(refused)
        return
    if record is None:
        return
    if record.get("manifest_sha256", manifest.sha256) != manifest.sha256:
        yield f"{RUN_NAME} is of another manifest ({record['manifest_sha256']})"
    for name, digest in record.get(FILES, {}).items():
        path = os.path.join(folder, name)
        if is_file(path):  # whoever removes rejects/ or provenance/ takes nothing from the dataset
            with local_file(path) as local:
                if file_sha256(local) != digest:
                    yield f"{path} was altered: its sha256 is not that of {RUN_NAME}"


def _of(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
