"""Tables are checked where they are written and read."""

import pyarrow as pa
import pytest

from cluster.errors import UserError
from pipelines import schemas


def test_columns_are_put_in_order_and_cast():
    table = pa.table({"split": ["test"], "doc": [1], "relevance": [1], "query": pa.array([2], pa.int32())})
    assert schemas.conform(table, schemas.QRELS).schema.equals(schemas.QRELS, check_metadata=True)


@pytest.mark.parametrize(
    "columns",
    [
        {"query": [1], "doc": [1], "relevance": [1.0]},
        {"query": [1], "doc": [1], "relevance": [1.0], "split": ["a"], "more": [1]},
        {"query": ["one"], "doc": [1], "relevance": [1.0], "split": ["a"]},
        {"query": pa.array([None], pa.int64()), "doc": [1], "relevance": [1.0], "split": ["a"]},
    ],
)
def test_a_table_of_another_shape_is_refused(columns):
    with pytest.raises(UserError, match="table qrels"):
        schemas.conform(pa.table(columns), schemas.QRELS)


def test_a_title_stands_before_its_text():
    table = pa.table({"title": ["Insulin", None, ""], "text": ["lowers sugar", "no title", "empty title"]})
    assert schemas.rendered_texts(table) == ["Insulin lowers sugar", "no title", "empty title"]
