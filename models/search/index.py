"""Index files: a flat inner-product index in the format of faiss, written in blocks and searched exactly."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import ModelError
from models.search.exact import Documents

if TYPE_CHECKING:
    import faiss


def build_index(dimension: int) -> "faiss.IndexFlatIP":
    """Return an empty index for embeddings of ``dimension`` components."""
    import faiss

    return faiss.IndexFlatIP(dimension)


def add_embeddings(index: "faiss.IndexFlatIP", doc_ND: np.ndarray) -> None:
    """Append the embeddings of the next N documents, of any float dtype; kept as float32.

    Raises:
        ModelError: An embedding is not finite, or of another dimension.
    """
    if doc_ND.shape[1] != index.d:
        raise ModelError("embeddings differ in dimension", got=str(doc_ND.shape[1]), expected=str(index.d))
    index.add(Documents(doc_ND, first_document=index.ntotal).doc_ND)


def write_index(index: "faiss.IndexFlatIP", path: str | Path) -> None:
    """Write an index file that any faiss reads."""
    import faiss

    faiss.write_index(index, str(path))


def read_index(path: str | Path, device: str = "cpu") -> Documents:
    """Read an index file, ready to be searched with ``Documents.top_k``; row i is document i.

    Args:
        path: What ``write_index`` wrote.
        device: Where searches run.

    Raises:
        ModelError: No such file, or no flat inner-product index.
    """
    import faiss

    path = Path(path)
    if not path.is_file():
        raise ModelError("no such index file", str(path), fix="build the index first")
    try:
        owner = faiss.read_index(str(path))  # frees the vectors when it goes, whoever still looks at them
    except RuntimeError as error:
        got = str(error).splitlines()[0]
        raise ModelError(
            "faiss cannot read this file", str(path), got, fix="build the index again"
        ) from error
    index = faiss.downcast_index(owner)
    if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ModelError(
            "this index cannot be searched exactly",
            str(path),
            got=type(index).__name__,
            expected="a flat inner-product index",
            fix="build the index again",
        )
    stored = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return Documents(np.array(stored, dtype=np.float32).reshape(index.ntotal, index.d), device=device)
