"""What smaller indexes cost: bytes in memory and recall against the exact search, on real queries.

    stope encode squad_minilm_cpu --set data.path=squad --storage workspace
    python -m tests.bench.compression workspace

Builds every kind of index of the newest embeddings of a store, and asks each the same queries with 1, 4 and 10
candidates for each document asked for; what sentence-transformers finds in the same bits, which it scores again with
the bits, stands below. Times are of all queries at once, with the most candidates.
"""

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from sentence_transformers.util.quantization import quantize_embeddings, semantic_search_faiss

from cluster.artifacts import ArtifactStore
from models.search.exact import top_k
from models.search.index import build_index, read_codes, write_index
from models.search.rescored import RescoredDocuments
from pipelines.index.recall import read_embeddings, sample_embeddings, share_found
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
    parser.add_argument("storage", help="root of a store")
    parser.add_argument("--queries", type=int, default=1000)
    args = parser.parse_args()
    store = ArtifactStore(args.storage)
    key = [made.key for made in store.list() if made.stage == "encode"][-1]
    artifact = store.get(key)
    shards = range(artifact.num_shards("documents"))
    doc_ND = np.concatenate([read_embeddings(artifact, "documents", shard)[1] for shard in shards])
    q_QD = sample_embeddings(artifact, "queries", args.queries)
    dimension = doc_ND.shape[1]
    started = perf_counter()
    truth_QK = top_k(q_QD, doc_ND, K)[1]
    seconds = perf_counter() - started
    print(machine())
    print(f"{key}: {len(doc_ND):,} documents, {len(q_QD):,} queries, {dimension} components")
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
