"""Write beside the target, then put it in place in one step: nobody sees half of an export."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import UserError
from cluster.local_storage import TEMPORARY_PREFIX, explain_disk_errors

OWN_NAMES = {
    "corpus.parquet", "corpus.jsonl", "queries.parquet", "queries.jsonl", "qrels", "negatives.parquet",
    "quarantine.parquet", "train.jsonl", "runs",
}  # fmt: skip
"""What a directory written here holds; a directory with anything else is never replaced."""


@contextmanager
def placed(target: Path, overwrite: bool) -> Iterator[Path]:
    """Yield a path to build at, which takes the place of ``target`` when the block ends well.

    Args:
        target: A file or directory.
        overwrite: Whether it may exist already.

    Raises:
        UserError: It exists and must stay, or the disk is full.
    """
    _refuse_existing(target, overwrite)
    building = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    with explain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield building
            if target.is_dir():
                old = target.parent / f"{building.name}-old"
                target.rename(old)
                building.rename(target)
                shutil.rmtree(old)
            else:
                building.replace(target)
        finally:
            if building.is_dir():
                shutil.rmtree(building)
            else:
                building.unlink(missing_ok=True)


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise UserError("exists already", where=str(target), fix="name another path, or add --overwrite")
    if target.is_dir():
        foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in OWN_NAMES)
        if foreign:
            raise UserError(
                "this directory holds other files, which --overwrite would delete",
                where=str(target),
                got=", ".join(foreign[:8]),
                fix="name another path",
            )
