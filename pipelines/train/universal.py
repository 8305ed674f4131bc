"""Checkpoints for another number of ranks than wrote them: DeepSpeed's universal layout, made when it is needed."""

import contextlib
import os
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import distributed


@contextlib.contextmanager
def converted(directory: Path, tag: str, node: str) -> Iterator[Path]:
    """Convert a checkpoint, once on each node, and remove the result at the end; every rank must take part.

    Args:
        directory: Of the checkpoint, readable on this rank's node.
        tag: Folder in it.
        node: Names this rank's node.

    Yields:
        A folder with ``tag`` in it, for an engine that was told to load universal checkpoints.
    """
    nodes: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(nodes, node)
    converts = nodes.index(node) == distributed.get_rank()
    with contextlib.ExitStack() as stack:
        own = None
        if converts:
            own = stack.enter_context(tempfile.TemporaryDirectory(prefix="stope-universal-"))
            convert(directory / tag, Path(own) / tag)
        folders: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(folders, own)
        yield Path(folders[nodes.index(node)])
        # Whoever made the folder removes it, when all of its node have read it.
        distributed.barrier()


def convert(source: Path, target: Path) -> None:
    """Write the universal form of a checkpoint's folder; needs disk for it twice, and the memory of one shard."""
    from deepspeed.checkpoint import ds_to_universal

    target.mkdir(parents=True)
    settings = Namespace(
        input_folder=str(source),
        output_folder=str(target),
        # Processes forked from one with threads, Ray's and torch's, may hang.
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    # It prints what it does.
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        ds_to_universal.main(settings)
