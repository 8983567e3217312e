"""A store for tests whose objects are files of this machine: store://a/b is the file /a/b."""

from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class DiskStore(LocalFileSystem):
    """Serves local files under the scheme store://."""

    protocol = "store"

    def __init__(self, **options: Any):
        super().__init__(auto_mkdir=True, **options)  # stores have no folders

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("store:").strip("/")


fsspec.register_implementation("store", DiskStore)
