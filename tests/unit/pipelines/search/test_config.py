import pytest
from pydantic import ValidationError

from pipelines.search.config import FusedTeacher, IvfConfig, SearchConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
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


def test_inverted_lists_are_scanned_by_faiss_on_processors_alone():
    chosen = {
        (device, is_approximate): SearchConfig().backend_on(device, is_approximate)
        for device in ("cpu", "cuda")
        for is_approximate in (False, True)
    }
    assert [each for each, backend in chosen.items() if backend == "faiss"] == [("cpu", True)]
    assert SearchConfig(backend="faiss").backend_on("cuda", False) == "faiss"
    assert SearchConfig(backend="torch", index="ivf").backend_on("cpu", True) == "torch"


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [(0, 1), (1, 1), (9, 9), (100, 40), (1_000_000, 4000), (2_000_000_000, 131_072)],
)
def test_default_lists_are_never_more_than_are_trained_on(embeddings, expected):
    assert IvfConfig().lists_of(embeddings) == expected
    assert IvfConfig(num_lists=7).lists_of(embeddings) == 7


def test_a_fused_teacher_names_each_of_its_teachers_once():
    assert FusedTeacher(kind="fused", of=("a", "b")).constant == 60
    with pytest.raises(ValidationError, match="twice: a"):
        FusedTeacher(kind="fused", of=("a", "b", "a"))
    with pytest.raises(ValidationError):
        FusedTeacher(kind="fused", of=())
