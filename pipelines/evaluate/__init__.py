"""Evaluate: retrieval metrics on held-out queries, with intervals and baselines."""
