"""Whether the data has labels in the splits that a recipe names; every stage that reads queries by split asks."""

from collections.abc import Sequence

import pyarrow.compute as pc

from cluster.artifacts import Artifact
from cluster.errors import UserError


def check_splits(data: Artifact, splits: Sequence[str]) -> None:
    """Refuse splits without a query that has a document judged relevant.

    Args:
        data: The ingest artifact.
        splits: Those that are used; () for none.

    Raises:
        UserError: A split has no such query.
    """
    if not splits:
        return
    qrels = data.read("qrels", columns=["relevance", "split"])
    present = set(qrels.filter(pc.greater(qrels.column("relevance"), 0)).column("split").unique().to_pylist())
    for split in splits:
        if split not in present:
            raise UserError(
                "the data has no labelled query in a split that the recipe uses",
                where=f"mine.split or evaluate.split = {split}",
                expected=", ".join(sorted(present)) or "data with labels: kind texts has none",
                fix="name a split that is there, or give the data one",
            )
