import pytest
from pydantic import ValidationError

from pipelines.index.config import IndexConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "binary", "rescore_multiplier": 0}, "greater than or equal to 1"),
        ({"kind": "binary", "dimension": 0}, "greater than or equal to 1"),
        ({"kind": "hnsw"}, "'flat', 'int8' or 'binary'"),
        (
            {"rescore_multiplier": 8},
            r"rescore_multiplier \(8\): index.kind flat .* exact.*choose kind int8 or binary",
        ),
        ({"rescore_with": "codes"}, r"rescore_with \(codes\): index.kind flat .* exact"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        IndexConfig.model_validate(settings)


def test_only_whole_flat_embeddings_are_exact():
    assert IndexConfig().is_exact
    assert not IndexConfig(dimension=8, rescore_multiplier=2).is_exact
    assert not IndexConfig(kind="binary").is_exact and not IndexConfig(kind="int8").is_exact
    stored = IndexConfig().model_dump(mode="json")
    assert IndexConfig.model_validate(stored) == IndexConfig(), "a recorded recipe reads again"
