"""A store for tests whose objects are files of this machine: store://a/b is the file /a/b."""

import fsspec
from fsspec.implementations.local import LocalFileSystem


class DiskStore(LocalFileSystem):
    """Serves local files under the scheme store://."""

    protocol = "store"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("store:").strip("/")


fsspec.register_implementation("store", DiskStore)
