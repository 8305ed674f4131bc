import pytest
from pydantic import ValidationError

from pipelines.search.config import FusedTeacher, IvfConfig, SearchConfig
from pipelines.search.lists import num_lists


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"index": "ivf", "backend": "torch"}, "index ivf needs backend faiss"),
        ({"ivf": {"num_probes": 8}}, "need index ivf"),
        (
            {"index": "ivf", "ivf": {"num_lists": 500, "training_sample": 400}},
            r"training_sample \(400\) is less than ivf.num_lists \(500\)",
        ),
        ({"retrieval_depth": 0}, "greater than or equal to 1"),
        ({"probes": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_combined_is_refused_by_name(settings, message):
    with pytest.raises(ValidationError, match=message):
        SearchConfig.model_validate(settings)


def test_the_depth_of_the_second_search_turns_it_off():
    assert SearchConfig().searches_deeper
    assert not SearchConfig(retrieval_depth=1000).searches_deeper
    assert SearchConfig(index="ivf", ivf=IvfConfig(num_lists=8)).exact_backend == "torch"
    assert SearchConfig(backend="faiss").exact_backend == "faiss"


@pytest.mark.parametrize(("embeddings", "expected"), [(1_000_000, 4000), (2_000_000_000, 131_072)])
def test_default_lists_are_never_more_than_are_trained_on(embeddings, expected):
    class Many:
        def num_rows(self, _table):
            return embeddings

    assert num_lists(Many(), IvfConfig()) == expected


def test_a_fused_teacher_names_each_of_its_teachers_once():
    assert FusedTeacher(kind="fused", of=("a", "b")).constant == 60
    with pytest.raises(ValidationError, match="twice: a"):
        FusedTeacher(kind="fused", of=("a", "b", "a"))
    with pytest.raises(ValidationError):
        FusedTeacher(kind="fused", of=())
