"""Libraries that others import for nothing, kept out of every process."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache


@contextmanager
def absent(*modules: str) -> Iterator[None]:
    """Let others be imported as if these modules were not installed; one that is imported already stays."""
    hidden = [name for name in modules if name not in sys.modules]
    # None is how a module says that it is not there.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@cache
def import_transformers() -> None:
    """Import what all models of transformers stand on, but neither scikit-learn nor SciPy with it.

    They are imported for assisted generation and for object detection, which no model here does: a third of the time
    and of the memory that the import takes in every process.
    """
    with absent("sklearn", "scipy"):
        import transformers.generation.candidate_generator
        import transformers.modeling_utils  # noqa: F401
    from transformers.utils import import_utils

    # What comes later may have them.
    import_utils.is_sklearn_available.cache_clear()
    import_utils.is_scipy_available.cache_clear()


def import_sentence_transformers() -> None:
    """Import it without bitsandbytes, which PEFT takes along where it is installed, and torch's compiler with that."""
    with absent("bitsandbytes"):
        import sentence_transformers  # noqa: F401
