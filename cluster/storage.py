"""Bytes under a root URI: a folder of this machine, or an object store.

Both kinds write whole objects only: a reader sees an object complete or not at all, whatever is killed.
"""

from urllib.parse import urlsplit

from cluster.errors import UserError
from cluster.local_storage import LocalStorage, MissingObject
from cluster.object_storage import ObjectStorage

__all__ = ["LocalStorage", "MissingObject", "ObjectStorage", "Storage", "open_storage"]

Storage = LocalStorage | ObjectStorage
_SCHEMES = ("s3", "gs", "az")


def open_storage(uri: str) -> Storage:
    """Open the storage at ``uri``.

    Args:
        uri: A path (relative ones and ``~`` are resolved now), ``file://``, ``s3://``, ``gs://`` or ``az://``.
            Object stores take credentials, region and endpoint from the usual environment variables
            (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` ...).

    Raises:
        UserError: The scheme is none of these.
    """
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in _SCHEMES:
        return ObjectStorage(uri)
    if scheme == "file":
        return LocalStorage(urlsplit(uri).path)
    if scheme:
        raise UserError(
            "unknown kind of storage", where=uri, got=f"{scheme}://", expected="a path, s3://, gs:// or az://"
        )
    return LocalStorage(uri)
