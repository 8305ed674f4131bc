"""What a query of a plan is called in its data set."""

from typing import Any

import numpy as np

from cluster.artifacts import Artifact
from cluster.committed import find_committed
from cluster.errors import UserError
from pipelines.answers import WithDrafts
from pipelines.texts import TABLES
from pipelines.train.sources import input_name
from pipelines.train.stages import MAIN


def query_name(plan: Artifact, query: int) -> str:
    """Return the id of a query; that of a further data set is followed by the set's name.

    Args:
        plan: An artifact of the stage plan.
        query: Ordinal, as the plan has it.

    Raises:
        UserError: The data set is no longer in the store.
    """
    firsts: Any = plan.manifest.summary["first_ordinals"]
    # The sets come in the order of their ordinals.
    name, first = [(name, of["query"]) for name, of in firsts.items() if of["query"] <= query][-1]
    data = data_of(plan, name)
    table, _ = TABLES["query"]
    first_rows = data.first_rows(table)
    shard = int(np.searchsorted(first_rows, query - first, side="right")) - 1
    column = data.read_shard(table, shard, ["query_id"]).column("query_id")
    query_id = str(column[query - first - int(first_rows[shard])].as_py())
    return query_id if name == MAIN else f"{query_id} ({name})"


def data_of(plan: Artifact, name: str) -> Artifact:
    """Return the data that ordinals of a plan count through, generated queries behind its own.

    Args:
        plan: An artifact of the stage plan.
        name: Of the data set.

    Raises:
        UserError: It is no longer in the store.
    """
    data, *drafts = (
        _found(plan, plan.manifest.inputs[key])
        for kind in ("data", "drafts")
        if (key := input_name(name, kind)) in plan.manifest.inputs
    )
    return WithDrafts(data, *drafts) if drafts else data


def _found(plan: Artifact, key: str) -> Artifact:
    found = find_committed(plan.storage, key)
    if found is None:
        raise UserError(
            "a data set of the plan is gone", where=plan.storage.locate(key), fix="run the recipe again"
        )
    return found
