"""Which teachers search again for starved queries, and what cannot be."""

import pytest
from pydantic import ValidationError

from pipelines.mine.config import MineConfig
from pipelines.mine.pipeline import Shared, mine_steps
from tests.tiny_rerankers import make_cross_encoder
from tests.tiny_scoring import data_step
from tests.tiny_training import local_session

JUDGE = {"kind": "reranker", "over": "both", "depth": 5, "model": {"source": "judge"}}
TEACHERS = {
    "chance": {"kind": "random"},
    "words": {"kind": "bm25"},
    "other": {"kind": "random", "seed": 1},
    "both": {"kind": "fused", "of": ["words", "other"]},
    "judge": JUDGE,
}
SEARCH = {"retrieval_depth": 10, "max_retrieval_depth": 25}


def configured(select, search=SEARCH, **teachers):
    return MineConfig.model_validate({"teachers": TEACHERS | teachers, "search": search, "select": select})


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        ({"teachers": ["chance"]}, ["chance"]),
        ({"teachers": ["both"]}, ["words", "other", "both"]),
        ({"teachers": ["judge"]}, ["words", "other", "both", "judge"]),
        ({"teachers": ["chance"], "filter": {"scores_of": "judge"}}, list(TEACHERS)),
        ({"teachers": ["words", "chance"], "ensemble": "intra_sample"}, ["chance", "words"]),
    ],
)
def test_a_list_made_of_others_searches_again_with_all_it_is_made_of(select, expected):
    assert list(configured(select).searched_deeper) == expected
    assert configured(select, {**SEARCH, "max_retrieval_depth": 10}).searched_deeper == ()


def test_a_reranker_scores_as_much_deeper_as_is_searched_deeper():
    for depth, expected in ((5, 13), (4, 10), (10, 25)):
        mine = configured({"teachers": ["judge"]}, judge={**JUDGE, "depth": depth})
        teacher = mine.teachers["judge"]
        assert teacher.deeper_scoring(mine.search).depth == expected
        assert teacher.scoring.depth == depth
    mine = configured({"teachers": ["judge"]}, judge={**JUDGE, "max_depth": 7})
    assert mine.teachers["judge"].deeper_scoring(mine.search).depth == 7


@pytest.mark.parametrize(
    ("select", "search", "max_depth", "message"),
    [
        ("judge", SEARCH, 4, r"max_depth \(4\) is less than depth \(5\)"),
        ("words", SEARCH, 9, "judge.max_depth does nothing: selection does not read this teacher"),
        (
            "judge",
            {"retrieval_depth": 10, "max_retrieval_depth": 10},
            9,
            r"max_retrieval_depth \(10\) does not exceed",
        ),
    ],
)
def test_a_depth_that_would_do_nothing_is_refused(select, search, max_depth, message):
    with pytest.raises(ValidationError, match=message):
        configured({"teachers": [select]}, search, judge={**JUDGE, "max_depth": max_depth})


def test_the_deeper_steps_read_each_other_and_leave_the_first_ones_alone(tmp_path):
    directory = make_cross_encoder(tmp_path / "judge")
    model = {"source": str(directory), "max_query_tokens": 8, "max_document_tokens": 40}
    select = {"teachers": ["chance"], "filter": {"scores_of": "judge"}}
    made = {}
    with local_session() as session:
        for depth in (10, 25):
            mine = configured(
                select, {**SEARCH, "max_retrieval_depth": depth}, judge={**JUDGE, "model": model}
            )
            made[depth] = mine_steps(mine, Shared(data_step(), None, None, ("train",), session))
    once, twice = made[10], made[25]
    assert set(twice) - set(once) == {"starved", *(f"{name}_deeper" for name in TEACHERS)}
    assert all(twice[name].key == once[name].key for name in once if name != "groups")
    for name in ("chance", "words", "other"):
        assert twice[f"{name}_deeper"].inputs["only"] is twice["starved"]
    assert dict(twice["both_deeper"].inputs) == {
        f"of_{of}": twice[f"{of}_deeper"] for of in ("words", "other")
    }
    assert twice["judge_deeper"].inputs["over"] is twice["both_deeper"]
    assert (twice["both_deeper"].identity["depth"], twice["judge_deeper"].identity["depth"]) == (25, 13)
    again = {name: step for name, step in twice["groups"].inputs.items() if name.startswith("deeper_")}
    assert again == {f"deeper_{name}": twice[f"{name}_deeper"] for name in ("chance", "judge")}
    assert all(step.key.count("-deeper-") == 1 for name, step in twice.items() if name.endswith("_deeper"))
    assert list(twice).index("both_deeper") < list(twice).index("judge_deeper")
