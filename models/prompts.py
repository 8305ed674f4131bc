"""Prompts: the instruction put before a query or a document."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.errors import ModelError

Kind = Literal["query", "document"]

# The names under which public models store the prompt of the corpus side, in the order of
# sentence-transformers.
_DOCUMENT_NAMES = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Prompts:
    """What is put before a text; the rendered text is prefix + text.

    Args:
        query: Prefix of every query; "" for none.
        document: Prefix of every document; "" for none.
        pooled: Whether the prefix's tokens are pooled. False: they are attended to, but not pooled, which is
        how
            instruction-tuned embedding models are trained. True is for models trained otherwise (E5, BGE).
    """

    query: str = ""
    document: str = ""
    pooled: bool = False

    def prefix(self, kind: Kind) -> str:
        """Return the prefix of ``kind``."""
        return self.query if kind == "query" else self.document

    def render(self, text: str, kind: Kind) -> str:
        """Return the text as the model sees it."""
        return self.prefix(kind) + text

    @staticmethod
    def from_directory(directory: Path) -> "Prompts":
        """Read the prompts that a sentence-transformers directory declares.

        Args:
            directory: A model's directory; without ``config_sentence_transformers.json`` there are no
            prompts.

        Returns:
            Its prompts; ``pooled`` as ``1_Pooling/config.json`` says (``include_prompt``, by default true).

        Raises:
            ModelError: A prompt is no string.
        """
        path = directory / "config_sentence_transformers.json"
        if not path.is_file():
            return Prompts()
        named = json.loads(path.read_text()).get("prompts") or {}
        query = named.get("query") or ""
        document = next((named[name] for name in _DOCUMENT_NAMES if named.get(name)), "")
        for name, prompt in (("query", query), ("document", document)):
            if not isinstance(prompt, str):
                raise ModelError(
                    f"the {name} prompt is no text",
                    str(path),
                    got=repr(prompt),
                    expected="a string",
                    fix=f'write "prompts": {{"{name}": "..."}} in this file',
                )
        pooling = directory / "1_Pooling" / "config.json"
        pooled = bool(query or document)
        if pooled and pooling.is_file():
            pooled = bool(json.loads(pooling.read_text()).get("include_prompt", True))
        return Prompts(query, document, pooled)
