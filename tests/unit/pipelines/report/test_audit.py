"""Every measure of the audit against loops over the rows it was made of."""

import itertools
import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from cluster.errors import UserError
from pipelines.report.config import AuditConfig, KnownConfig

SHARES = ("listed_false", "answer_false", "identical", "near_duplicate", "labelled", "repeated")


def fold(text):
    return " ".join(text.split())


def shingles(text):
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def is_false(world, measure, group, place):
    query, doc = group["query"], group["negatives"][place]["doc"]
    texts, positives = world.texts, [member["doc"] for member in group["positives"]]
    identical = any(fold(texts[doc]) == fold(texts[positive]) for positive in positives)
    if measure == "listed_false":
        return (query, doc) in {(q, d) for q, d, level in world.listed if level >= 3}
    if measure == "answer_false":
        return any(answer in fold(texts[doc]).lower() for answer in usable(world, query))
    if measure == "identical":
        return identical
    if measure == "near_duplicate":
        mine = shingles(texts[doc])
        theirs = [shingles(texts[positive]) for positive in positives]
        return not identical and any(len(mine & each) / len(mine | each) >= 0.5 for each in theirs)
    if measure == "labelled":
        return doc in positives
    return doc in [negative["doc"] for negative in group["negatives"][:place]]


def usable(world, query):
    folded = (fold(answer).lower() for answer in world.answers.get(query, []))
    return [answer for answer in folded if len(answer) >= 5 and re.search("[a-z]", answer)]


def covered(world, measure, query):
    if measure.startswith("listed"):
        return query in {q for q, _, level in world.listed if level >= 3}
    return bool(usable(world, query)) if measure.startswith("answer") else True


@pytest.mark.parametrize("measure", SHARES)
@pytest.mark.parametrize("method", ["naive", "strict", "repeats"])
def test_shares_equal_the_naive_loop(world, audit, measure, method):
    events = negatives = queries = queries_with = 0
    for group in world.rows(method):
        if not covered(world, measure, group["query"]):
            continue
        hits = sum(is_false(world, measure, group, place) for place in range(len(group["negatives"])))
        events, negatives = events + hits, negatives + len(group["negatives"])
        queries, queries_with = queries + 1, queries_with + bool(hits)
    row = audit.measures()[measure][method]
    assert row["count"] == events and row["value"] == pytest.approx(events / negatives)
    assert row["ci_low"] <= row["value"] <= row["ci_high"]
    if measure.endswith("_false"):
        per_query = audit.measures()[f"{measure}_queries"][method]
        assert per_query["count"] == queries_with
        assert per_query["value"] == pytest.approx(queries_with / queries)


def test_the_data_holds_every_kind_of_false_negative(audit):
    found = audit.measures()
    assert all(sum(row["count"] for row in found[measure].values()) > 0 for measure in SHARES)


def test_starved_counts_dropped_queries_too(world, audit):
    num_queries = world.cuts[-1]
    for method in world.methods:
        full = sum(len(group["negatives"]) >= world.asked for group in world.rows(method))
        row = audit.measures()["starved"][method]
        assert row["count"] == num_queries - full and row["value"] == pytest.approx(1 - full / num_queries)
    assert audit.measures()["starved"]["naive"]["count"] == 0


def test_ranks_equal_the_naive_loop(world, audit):
    for method in world.methods:
        ranks = sorted(n["rank"] for group in world.rows(method) for n in group["negatives"] if n["rank"] > 0)
        middle = len(ranks) // 2
        median = ranks[middle] if len(ranks) % 2 else (ranks[middle - 1] + ranks[middle]) / 2
        found = audit.measures()
        assert found["mean_rank"][method]["value"] == pytest.approx(sum(ranks) / len(ranks))
        assert found["mean_rank"][method]["count"] == len(ranks)
        assert found["median_rank"][method]["value"] == median


def naive_values(world, method, temperature):
    values = {"positive": [], "negative": [], "margin": [], "loss": []}
    for group in world.rows(method):
        scored = [n["scores"][0] for n in group["negatives"] if n["scores"][0] is not None]
        values["negative"] += scored
        for positive in (member["scores"][0] for member in group["positives"]):
            values["positive"].append(positive)
            values["margin"] += [positive - score for score in scored]
            if scored:
                top = math.exp(positive / temperature)
                values["loss"].append(
                    -math.log(top / (top + sum(math.exp(score / temperature) for score in scored)))
                )
    return values


def test_score_means_equal_the_naive_loop(world, audit, config):
    for method in world.methods:
        for quantity, values in naive_values(world, method, config.temperature).items():
            row = audit.measures()[f"mean_{quantity}"][method]
            assert row["count"] == len(values)
            assert row["value"] == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_histograms_hold_every_value_in_its_bin(world, audit, config):
    rows = audit.histograms.to_pylist()
    for method in world.methods:
        for quantity, values in naive_values(world, method, config.temperature).items():
            mine = [row for row in rows if row["method"] == method and row["quantity"] == quantity]
            assert sum(row["count"] for row in mine) == len(values)
            # float32 scores on both sides; the loss is rounded differently, and may lie on an edge.
            if quantity != "loss":
                for row in mine:
                    held = sum(row["bin_low"] <= value < row["bin_high"] for value in values)
                    assert row["count"] == held


def test_agreement_equals_the_naive_loop(world, audit):
    def best(name, query):
        rows = [row for shard in world.candidates[name] for row in shard if row["query"] == query]
        open_ = sorted(
            (row["rank"], row["doc"]) for row in rows if row["rank"] > 0 and not row["is_positive"]
        )
        return {doc for _, doc in open_[:4]}

    found = {(row["teacher_a"], row["teacher_b"]): row["jaccard"] for row in audit.agreement.to_pylist()}
    queries = range(world.cuts[-1])
    tops = {name: [best(name, query) for query in queries] for name in world.teachers}
    for a, b in itertools.product(world.teachers, repeat=2):
        shares = [len(x & y) / len(x | y) for x, y in zip(tops[a], tops[b], strict=True)]
        assert found[a, b] == pytest.approx(sum(shares) / len(shares))
    assert 0 < found["dense", "chance"] < found["dense", "words"] < found["dense", "dense"] == 1


def test_examples_show_what_every_method_decided(world, audit):
    rows = audit.examples.to_pylist()
    queries = list(dict.fromkeys(row["query"] for row in rows))
    assert 0 < len(queries) <= 6
    shown = Counter(doc for query in queries for doc in set(world.positives[query]))
    assert max(shown.values()) == 1
    for query in queries:
        mine = [row for row in rows if row["query"] == query]
        for method in world.methods:
            group = [group for group in world.rows(method) if group["query"] == query]
            expected = {negative["doc"] for each in group for negative in each["negatives"]}
            assert {row["doc"] for row in mine if method in row["methods"]} == expected
        assert {row["doc"] for row in mine if row["role"] == "positive"} <= set(world.positives[query])
        assert all(row["doc"] not in world.positives[query] for row in mine if row["role"] == "rejected")
        assert all(not row["methods"] for row in mine if row["role"] == "rejected")
    listed = {(q, d) for q, d, level in world.listed if level >= 3}
    for row in rows:
        if row["role"] != "positive":
            flagged = "listed as false negative" in row["flags"]
            assert flagged == ((row["query"], row["doc"]) in listed)


def test_what_the_lists_leave_out_is_counted(world, audited):
    counters = audited[2].manifest.counters
    assert counters["listed_pair_below_level"] == sum(level < 3 for _, _, level in world.listed)
    assert counters["listed_pair_of_unknown_query"] == 1 and counters["listed_pair_of_unknown_document"] == 1
    strings = {(query, fold(answer).lower()) for query, each in world.answers.items() for answer in each}
    kept = sum(len(usable(world, query)) for query in world.answers)
    assert counters["answer_too_short_or_a_number"] == len(strings) - kept


def test_a_sample_of_the_texts_leaves_other_measures_alone(world, config, audit):
    from pipelines.report.tables import Audit

    sampled = Audit.read(world.run(config.model_copy(update={"max_text_queries": 16}))[2])
    assert 8 <= sampled.facts["text_queries"] <= 24
    for measure in ("listed_false", "starved", "mean_margin", "labelled"):
        assert sampled.measures()[measure] == audit.measures()[measure]
    assert sampled.measures()["identical"]["naive"]["count"] < audit.measures()["identical"]["naive"]["count"]


def test_without_lists_there_is_no_measure_of_known_ones(world):
    from pipelines.report.tables import Audit

    plain = Audit.read(world.run(AuditConfig(bootstrap_samples=100, num_examples=0))[2])
    assert not {"listed_false", "answer_false"} & set(plain.measures())
    assert plain.examples.num_rows == 0 and "near_duplicate" in plain.measures()


def test_methods_that_a_teacher_did_not_score_are_told_apart(world):
    from pipelines.report.tables import Audit

    config = AuditConfig(bootstrap_samples=100, score_by="chance")
    narrow = replace(world, groups={"empty": [[], [], []], "strict": world.groups["strict"]})
    found = Audit.read(narrow.run(config)[2])
    scores = [n["scores"][2] for group in world.rows("strict") for n in group["negatives"]]
    assert found.measures()["mean_negative"]["strict"]["value"] == pytest.approx(sum(scores) / len(scores))
    assert found.measures()["starved"]["empty"]["value"] == 1
    assert set(found.measures()["mean_negative"]) == {"strict"}
    assert set(found.histograms.column("method").to_pylist()) == {"strict"}
    nothing = Audit.read(replace(world, groups={"empty": [[], [], []]}).run(config)[2])
    assert nothing.examples.num_rows == 0 and nothing.measures()["negatives"]["empty"]["value"] == 0


def test_shards_that_do_not_match_are_refused(world):
    uneven = replace(world, groups={"naive": world.groups["naive"][:2]})
    with pytest.raises(UserError, match="different shards"):
        uneven.run(AuditConfig())


def test_the_fingerprint_follows_the_bytes_of_a_list_not_its_path(world, config, tmp_path):
    copy = tmp_path / "elsewhere.parquet"
    copy.write_bytes((world.folder / "answers.parquet").read_bytes())
    moved = config.known.model_copy(update={"answers": str(copy)})
    here = world.steps(config)["audit"].fingerprint
    assert world.steps(config.model_copy(update={"known": moved}))["audit"].fingerprint == here
    copy.write_bytes((world.folder / "pairs.parquet").read_bytes())
    assert world.steps(config.model_copy(update={"known": moved}))["audit"].fingerprint != here


def test_mistakes_are_named(world, config, tmp_path):
    with pytest.raises(UserError, match="no such teacher"):
        world.steps(AuditConfig(score_by="nobody"))
    with pytest.raises(UserError, match=r"known\.pairs"):
        world.steps(AuditConfig(known=KnownConfig(pairs=str(tmp_path / "absent.parquet"))))
    lacking = KnownConfig(pairs=str(world.folder / "answers.parquet"))
    with pytest.raises(UserError, match="lacks corpus-id"):
        world.run(AuditConfig(known=lacking))
    with pytest.raises(ValueError, match="min_level"):
        KnownConfig(min_level=3)
