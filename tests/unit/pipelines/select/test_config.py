"""Settings that contradict each other name both values; equal rules have equal fingerprints."""

import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from pipelines.select.config import FilterConfig, SelectConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"selection": "sampled", "num_negatives": 11}, ["sample_from (10)", "num_negatives (11)"]),
        ({"filter": {"method": "naive", "threshold": 0.5}}, ["naive", "threshold", "0.5"]),
        ({"filter": {"method": "perc_pos", "shift": 3}}, ["perc_pos", "shift", "3"]),
        (
            {"filter": {"method": "shifted", "max_positive_ratio": 0.9}},
            ["shifted", "max_positive_ratio", "0.9"],
        ),
        ({"filter": {"method": "double", "scores_of": "judge"}}, ["double", "scores_of", "judge"]),
        ({"filter": {"scores_of": "judge", "threshold": {"a": 0.5}}}, ["judge", "0.5"]),
        ({"filter": {"min_rank": 9, "max_rank": 8}}, ["min_rank (9)", "max_rank (8)"]),
        ({"filter": {"min_rank": 6, "max_rank": 8}}, ["min_rank (6)", "max_rank (8)", "num_negatives (4)"]),
        ({"ensemble": "intra_sample", "selection": "sampled"}, ["intra_sample", "sampled"]),
        ({"deduplicate": True}, ["deduplicate (true)", "ensemble is none"]),
        ({"positives": "per_example", "positive_score": "max"}, ["per_example", "positive_score (max)"]),
        ({"teachers": ["a", "b"]}, ["ensemble none", "a, b"]),
        ({"teachers": ["a"], "ensemble": "cross_sample"}, ["ensemble cross_sample", "teachers are a"]),
        ({"teachers": ["a", "a"], "ensemble": "cross_sample"}, ["a, a"]),
        ({"teachers": ["a"], "filter": {"threshold": {"b": 0.5}}}, ["is of b", "teachers are a"]),
        ({"filter": {"threshold": float("nan")}}, ["finite"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, named):
    with pytest.raises(ValidationError) as error:
        SelectConfig.model_validate(settings)
    assert all(each in str(error.value) for each in named)


def test_suppliers_are_all_but_the_judge():
    assert SelectConfig().suppliers(["a"]) == ("a",)
    hybrid = SelectConfig(filter=FilterConfig(scores_of="judge"))
    assert hybrid.suppliers(["a", "judge"]) == ("a",)
    assert hybrid.reads(["judge", "a"]) == ("a", "judge")
    named = SelectConfig(teachers=("b",), filter=FilterConfig(scores_of="b"))
    assert named.reads(["a", "b", "c"]) == ("b",)
    both = SelectConfig(ensemble="intra_sample")
    assert both.reads(["b", "a"]) == ("b", "a")


@pytest.mark.parametrize(
    ("config", "names", "named"),
    [
        (SelectConfig(), ["a", "b"], "ensemble none takes one teacher, but teachers are a, b"),
        (SelectConfig(ensemble="cross_sample"), ["a"], "takes several teachers, but teachers are a"),
        (SelectConfig(filter=FilterConfig(threshold={"a": 0.5})), ["b"], "is of a, but teachers are b"),
        (SelectConfig(filter=FilterConfig(scores_of="a")), ["a"], r"scores_of \(a\)"),
    ],
)
def test_teachers_of_the_recipe_that_do_not_fit_are_refused(config, names, named):
    with pytest.raises(UserError, match=named):
        config.suppliers(names)


def test_a_default_written_out_is_the_same_rule():
    for method, written in (
        ("perc_pos", {"threshold": 0.95}),
        ("shifted", {"shift": 10}),
        ("double", {"threshold": 0.8, "shift": 5, "max_positive_ratio": 0.95}),
    ):
        said = SelectConfig(filter=FilterConfig(method=method, **written))
        assert said.resolved == SelectConfig(filter=FilterConfig(method=method)).resolved == said
    assert SelectConfig(filter=FilterConfig(threshold=0.9)).resolved != SelectConfig().resolved
    assert SelectConfig(filter=FilterConfig(method="shifted")).resolved.filter.threshold is None
