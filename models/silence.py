"""Model libraries kept off the terminal, and off others that they import for nothing."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silence() -> Iterator[None]:
    """Keep bars and logs of the model libraries off the terminal, and put them back as they were."""
    from transformers.utils import logging as transformers_logging

    disabled = logging.root.manager.disable
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        if bars:
            transformers_logging.enable_progress_bar()


def without_scikit_learn() -> None:
    """Import what all models of transformers stand on, but not scikit-learn with it.

    It is imported for one function of assisted generation, which no model here needs: a quarter of the time and of the
    memory that the import takes in every process.
    """
    if "sklearn" not in sys.modules:
        # None is how a module says that it is not there.
        sys.modules["sklearn"] = None  # type: ignore[assignment]
        try:
            import transformers.generation.candidate_generator  # noqa: F401
        finally:
            del sys.modules["sklearn"]
