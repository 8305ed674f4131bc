import csv
from collections import defaultdict

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.errors import UserError
from pipelines.exchange.clicks import grade
from pipelines.exchange.config import ClicksConfig

HEADER = ["query", "document", "clicks", "impressions"]


@pytest.fixture
def log(tmp_path):
    def write(rows, header=HEADER):
        with (tmp_path / "log.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return tmp_path / "log.csv"

    return write


@pytest.mark.parametrize("prior", [0.0, 20.0])
@pytest.mark.parametrize("least", [1, 40])
def test_grades_equal_a_loop_over_the_log(bring, log, pairs, prior, least):
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(300):
        impressions = int(generator.integers(1, 60))
        clicks = int(generator.binomial(impressions, generator.beta(1, 6)))
        rows.append(
            (f"query {generator.integers(12)}", f"document {generator.integers(9)}", clicks, impressions)
        )
    config = ClicksConfig(min_impressions=least, prior_impressions=prior)
    made = bring("clicks", log(rows), clicks=config)

    sums, mean = defaultdict(lambda: [0, 0]), sum(r[2] for r in rows) / sum(r[3] for r in rows)
    for query, document, clicks, impressions in rows:
        sums[query, document][0] += clicks
        sums[query, document][1] += impressions
    wanted, rare, low = {}, 0, 0
    for pair, (clicks, impressions) in sums.items():
        rate = (clicks + prior * mean) / (impressions + prior)
        if impressions < least:
            rare += 1
        elif rate < 0.05:
            low += 1
        else:
            wanted[pair] = 1.0 if rate < 0.15 else 2.0 if rate < 0.3 else 3.0
    assert pairs()("qrels/train") == wanted and set(wanted.values()) >= {1.0, 2.0}
    assert made.merged[f"pair shown fewer than {least} times"] == rare
    assert made.merged["pair whose rate is below 0.05"] == low
    assert made.merged["row added to an earlier row of its pair"] == len(rows) - len(sums)
    assert made.rows["documents"] == 9


def test_smoothing_pulls_few_impressions_to_the_mean():
    config = ClicksConfig(prior_impressions=20)
    assert grade(1, 1, 0.04, config) == 1, "one click of one: 1.8 of 21"
    assert grade(100, 100, 0.04, config) == 3
    assert grade(0, 0, 0.04, config) == 0
    assert [grade(n, 100, 0.0, ClicksConfig(prior_impressions=0)) for n in (4, 5, 15, 30)] == [0, 1, 2, 3]


def test_every_row_is_accounted_for(bring, log, table):
    rows = [
        ("a", "x", 5, 10), ("a  ", "x", 0, 10), ("a", "y", 11, 10), ("a", "z", -1, 10), ("a", "z", 0.5, 10),
        ("", "z", 1, 10), ("a", "z", "", 10), ("a", "z", "many", 10), ("b", "x", 20, 20), ("b", "unseen", 0, 50),
    ]  # fmt: skip
    made = bring("clicks", log(rows), clicks=ClicksConfig(prior_impressions=0), ratios=(0.0, 0.0, 1.0))
    assert [row[1:3] for row in table("quarantine")] == [
        (4, "more clicks than impressions"),
        (5, "clicks is not a whole number of times"),
        (6, "clicks is not a whole number of times"),
        (7, "empty query"),
        (8, "no clicks"),
        (9, "clicks is not a number"),
    ]
    assert sorted(row[2] for row in table("qrels/test")) == [2.0, 3.0]
    assert made.merged == {"row added to an earlier row of its pair": 1, "pair whose rate is below 0.05": 1}
    assert [row[2] for row in table("corpus")] == ["x", "unseen"]
    assert made.notes[0].startswith("25 clicks in 90 impressions")


def test_columns_and_cuts_are_checked(bring, log):
    path = log([("a", "x", 5, 10)], ["q", "document", "clicks", "views"])
    with pytest.raises(
        UserError, match=r"missing column query, impressions\n  got: q, document, clicks, views"
    ):
        bring("clicks", path)
    bring("clicks", path, columns={"query": "q", "impressions": "views"})
    with pytest.raises(ValidationError, match="do not ascend"):
        ClicksConfig(cuts=(0.3, 0.2, 0.4))
