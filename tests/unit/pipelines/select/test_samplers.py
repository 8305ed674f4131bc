"""Draws: their shares, their independence of everything but seed and example."""

import numpy as np

from pipelines.select.draws import drawn_document, drawn_teacher, gumbel_noise, splitmix, streams
from pipelines.select.samplers import sampled, top1_sampled
from tests.unit.pipelines.select import reference

MANY = 200_000


def test_splitmix_is_the_published_one():
    # The first outputs of the reference implementation for state 1234567.
    states = np.array([1234567, (1234567 + 0x9E3779B97F4A7C15) % 2**64], np.uint64)
    assert splitmix(states).tolist() == [6457827717110365317, 3203168211198807973]
    assert [reference.splitmix(int(state)) for state in states] == splitmix(states).tolist()


def test_a_draw_depends_on_seed_and_example_alone():
    queries = np.array([4, 9, 2])
    noise = gumbel_noise(streams(1, queries), 6)
    assert np.array_equal(noise[1], gumbel_noise(streams(1, queries[1:2]), 6)[0])
    assert not np.array_equal(noise[1], gumbel_noise(streams(2, queries[1:2]), 6)[0])
    one, other = streams(1, queries[:2] * 0 + 4, np.array([7, 8]))
    assert one != other


def test_sampling_follows_the_softmax():
    scores = np.array([[0.70, 0.69, 0.60, 0.50]]).repeat(MANY, axis=0)
    kept = np.ones(scores.shape, bool)
    noise = gumbel_noise(streams(0, np.arange(MANY)), 4)
    for temperature, expected in ((1.0, [0.269, 0.267, 0.244, 0.220]), (0.05, [0.507, 0.415, 0.069, 0.009])):
        share = sampled(scores, kept, 1, 4, temperature, noise).mean(axis=0)
        assert np.allclose(share, expected, atol=0.004)


def test_two_draws_are_without_replacement():
    weights = np.exp(np.array([0.9, 0.5, 0.1]) / 0.5)
    p = weights / weights.sum()
    scores = np.array([[0.9, 0.5, 0.1]]).repeat(MANY, axis=0)
    noise = gumbel_noise(streams(3, np.arange(MANY)), 3)
    share = sampled(scores, np.ones(scores.shape, bool), 2, 3, 0.5, noise).mean(axis=0)
    second = [sum(p[i] * p[j] / (1 - p[i]) for i in range(3) if i != j) for j in range(3)]
    assert np.allclose(share, p + second, atol=0.004)


def test_top1_sampled_keeps_the_first_survivor_and_stays_in_the_pool():
    scores = np.sort(np.random.default_rng(0).uniform(size=(500, 12)))[:, ::-1]
    kept = np.random.default_rng(1).uniform(size=scores.shape) < 0.8
    drawn = top1_sampled(scores, kept, 3, 5, 1.0, gumbel_noise(streams(0, np.arange(500)), 12))
    first = kept.argmax(axis=1)
    assert drawn[np.arange(500), first].all()
    assert (drawn.sum(axis=1) == np.minimum(3, kept.sum(axis=1))).all()
    assert not (drawn & (np.cumsum(kept, axis=1) > 5)).any()


def test_teachers_and_documents_are_drawn_evenly():
    stream = streams(0, np.arange(MANY))
    assert np.allclose(np.bincount(drawn_teacher(stream, 3)) / MANY, 1 / 3, atol=0.005)
    docs = [drawn_document(stream, attempt, 50) for attempt in range(2)]
    assert np.allclose(np.bincount(docs[0], minlength=50) / MANY, 1 / 50, atol=0.002)
    assert abs(np.mean(docs[0] == docs[1]) - 1 / 50) < 0.002
