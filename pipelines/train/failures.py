"""Why a training ended early, said to the user."""

from cluster.artifacts import Artifact
from cluster.errors import UserError
from pipelines.train.board import BadLoss
from pipelines.train.naming import query_name

SHOWN_QUERIES = 8


def raise_failure(failure: BadLoss | Exception | None, plan: Artifact) -> None:
    """Raise what the ranks reported instead of a trained model, if they did.

    Raises:
        UserError: Loss or gradient is not finite, or the loss diverges; the queries of the batch are named.
    """
    if isinstance(failure, Exception):
        raise failure
    if failure is not None:
        record = failure.record
        ids = [query_name(plan, query) for query in failure.queries[:SHOWN_QUERIES]]
        more = len(failure.queries) - len(ids)
        diverges = failure.limit is not None
        raise UserError(
            "the loss diverges" if diverges else "the loss or its gradient is not finite",
            where=f"train, step {record.step}, queries {', '.join(ids)}"
            + (f" and {more} more" if more else ""),
            got=f"loss {record.loss}, gradient norm {record.gradient_norm}, learning rate {record.learning_rate:.2e}",
            expected=f"a loss of at most {failure.limit:.4g}" if diverges else "finite numbers",
            fix="lower train.learning_rate, raise train.temperature, or "
            + ("raise train.max_loss_ratio" if diverges else "set train.dtype to float32"),
        )
