"""Index files in the formats of faiss: embeddings whole, in part, as bytes or as bits, built in blocks.

Shapes: N rows of documents, D dimensions, d of them held.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from models.errors import ModelError
from models.quantization import merge_ranges, quantize, truncate, value_ranges
from models.search.checks import as_float32, max_norm
from models.search.exact import Documents
from models.search.rescored import Codes, FaissIndex

Blocks = Callable[[], Iterator[np.ndarray]]
"""Goes through the embeddings once: float32 [rows, d] at a time."""
_BLOCK_ROWS = 65_536
_CLASSES = {"flat": "IndexFlat", "int8": "IndexScalarQuantizer", "binary": "IndexBinaryFlat"}


def build_index(emb_ND: np.ndarray, kind: str = "flat", dimension: int | None = None) -> FaissIndex:
    """Build an index of embeddings, which may lie in a mapped file: they are read in blocks.

    Args:
        emb_ND: Embeddings of any float dtype.
        kind: ``"flat"``: four bytes a component; ``"int8"``: one, as ``quantize`` codes it by the range of each
            component over all documents; ``"binary"``: one bit.
        dimension: Components held, the first ones at unit length (``truncate``); None: all, as they are.

    Raises:
        ModelError: An embedding is not finite, or kind or dimension do not fit.
    """
    if kind not in BUILDERS:
        raise ModelError("unknown kind of index", got=repr(kind), expected=", ".join(BUILDERS))
    held = emb_ND.shape[1] if dimension is None else dimension
    return BUILDERS[kind](partial(_blocks, emb_ND, held), held)


def _blocks(emb_ND: np.ndarray, held: int) -> Iterator[np.ndarray]:
    for start in range(0, len(emb_ND), _BLOCK_ROWS):
        block_ND = as_float32(emb_ND[start : start + _BLOCK_ROWS], "documents")
        max_norm(block_ND, "documents", start)
        yield block_ND if held == block_ND.shape[1] else truncate(block_ND, held)


def _flat(blocks: Blocks, held: int) -> FaissIndex:
    import faiss

    index = faiss.IndexFlatIP(held)
    for block_Nd in blocks():
        index.add(block_Nd)
    return index


def _int8(blocks: Blocks, held: int) -> FaissIndex:
    import faiss

    ranges_2d = merge_ranges(value_ranges(block_Nd) for block_Nd in blocks())
    index = faiss.IndexScalarQuantizer(held, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    # The least value and the width of each component: with these faiss reads our codes as it would its own.
    low_d, high_d = ranges_2d
    faiss.copy_array_to_vector(np.concatenate([low_d, high_d - low_d]), index.sq.trained)
    index.is_trained = True
    for block_Nd in blocks():
        index.add_sa_codes(quantize(block_Nd, "uint8", ranges_2d))
    return index


def _binary(blocks: Blocks, held: int) -> FaissIndex:
    import faiss

    index = faiss.IndexBinaryFlat(8 * -(-held // 8))
    for block_Nd in blocks():
        index.add(quantize(block_Nd, "ubinary"))
    return index


BUILDERS: dict[str, Callable[[Blocks, int], FaissIndex]] = {"flat": _flat, "int8": _int8, "binary": _binary}


def write_index(index: FaissIndex, path: str | Path) -> None:
    """Write an index file that any faiss reads."""
    import faiss

    write = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    write(index, str(path))


def read_index(path: str | Path, device: str = "cpu") -> Documents:
    """Read a flat index of whole embeddings, ready to be searched with ``Documents.top_k``; row i is document i.

    Args:
        path: What ``write_index`` wrote.
        device: Where searches run.

    Raises:
        ModelError: No such file, or no flat inner-product index.
    """
    import faiss

    index = _read(path, "flat")
    stored = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return Documents(np.array(stored, dtype=np.float32).reshape(index.ntotal, index.d), device=device)


def read_codes(path: str | Path, kind: str, dimension: int) -> Codes:
    """Read an index as codes that find candidates.

    Args:
        path: What ``write_index`` wrote.
        kind: A key of BUILDERS.
        dimension: Components that it holds.

    Raises:
        ModelError: No such file, or an index of another kind or dimension.
    """
    index = _read(path, kind)
    expected = 8 * -(-dimension // 8) if kind == "binary" else dimension
    if index.d != expected:
        raise ModelError(
            "the index is of another dimension",
            str(path),
            str(index.d),
            str(expected),
            "build the index again",
        )
    return Codes(index, dimension)


def _read(path: str | Path, kind: str) -> FaissIndex:
    import faiss

    path = Path(path)
    if not path.is_file():
        raise ModelError("no such index file", str(path), fix="build the index first")
    binary = kind == "binary"
    try:
        owner: FaissIndex = (faiss.read_index_binary if binary else faiss.read_index)(str(path))
    except RuntimeError as error:
        got = str(error).splitlines()[0]
        raise ModelError(
            "faiss cannot read this file", str(path), got, fix="build the index again"
        ) from error
    index: FaissIndex = (faiss.downcast_IndexBinary if binary else faiss.downcast_index)(owner)
    is_other = not isinstance(index, getattr(faiss, _CLASSES[kind]))
    if is_other or not (binary or index.metric_type == faiss.METRIC_INNER_PRODUCT):
        raise ModelError(
            "the file holds another index",
            str(path),
            got=type(index).__name__,
            expected=f"{_CLASSES[kind]}{'' if binary else ' by inner product'}",
            fix="build the index again",
        )
    index.referenced_objects = [owner]  # which frees the codes when it goes, whoever still looks at them
    return index
