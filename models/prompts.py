"""Prompts: the instruction put before a query or a document."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from models.errors import ModelError
from models.sentence_modules import includes_prompt

Kind = Literal["query", "document"]

# The names under which public models store the prompt of the corpus side, in the order of
# sentence-transformers.
_DOCUMENT_NAMES = ("document", "passage", "corpus")
_CONFIG = "config_sentence_transformers.json"
_SUFFIX = "query_suffix"

TEMPLATE = "Instruct: {task}\nQuery: {query}"
"""How E5, Linq-Embed-Mistral and LG-ANNA put an instruction and a query together."""


@dataclass(frozen=True)
class Prompts:
    """What is put before a text; the rendered text is prefix + text, + suffix for a query.

    Args:
        query: Prefix of every query whose task ``tasks`` does not name; "" for none.
        document: Prefix of every document; "" for none.
        pooled: Whether the prefix's tokens are pooled. False: they are attended to, but not pooled, which is
        how
            instruction-tuned embedding models are trained. True is for models trained otherwise (E5, BGE).
        tasks: (task of a query, its prefix), as often as there are tasks with an instruction of their own.
        suffix: What ends every query, however short the query is cut; "" for none.
    """

    query: str = ""
    document: str = ""
    pooled: bool = False
    tasks: tuple[tuple[str, str], ...] = ()
    suffix: str = ""

    def prefix(self, kind: Kind, task: str = "") -> str:
        """Return the prefix of ``kind``; of a query of ``task``, where that has one of its own."""
        if kind == "document":
            return self.document
        return next((prefix for name, prefix in self.tasks if name == task), self.query)

    def render(self, text: str, kind: Kind, task: str = "") -> str:
        """Return the text as the model sees it."""
        return self.prefix(kind, task) + text + (self.suffix if kind == "query" else "")

    @property
    def identity(self) -> dict[str, object]:
        """What embeddings depend on, as JSON; tasks and suffix only where there are any."""
        return {
            name: [list(task) for task in value] if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value or name in ("query", "document", "pooled")
        }

    @property
    def named(self) -> dict[str, str]:
        """Name -> prompt, as sentence-transformers stores them; ``encode(prompt_name=task)`` takes a task's."""
        sides = {"query": self.query, "document": self.document}
        return {name: text for name, text in sides.items() if text} | dict(self.tasks)

    @staticmethod
    def from_directory(directory: Path) -> "Prompts":
        """Read the prompts that a sentence-transformers directory declares.

        Args:
            directory: A model's directory; without ``config_sentence_transformers.json`` there are no
            prompts.

        Returns:
            Its prompts; ``pooled`` as the pooler's settings say (``include_prompt``, by default true). Names
            other than those of queries and documents are taken for tasks.

        Raises:
            ModelError: A prompt is no string.
        """
        path = directory / _CONFIG
        if not path.is_file():
            return Prompts()
        config = json.loads(path.read_text())
        named = {name: text for name, text in (config.get("prompts") or {}).items() if text}
        for name, prompt in (*named.items(), (_SUFFIX, config.get(_SUFFIX, ""))):
            if not isinstance(prompt, str):
                raise ModelError(
                    f"the {name} prompt is no text",
                    str(path),
                    got=repr(prompt),
                    expected="a string",
                    fix=f'write "prompts": {{"{name}": "..."}} in this file',
                )
        tasks = tuple(item for item in named.items() if item[0] not in ("query", *_DOCUMENT_NAMES))
        query = named.get("query", "")
        document = next((named[name] for name in _DOCUMENT_NAMES if named.get(name)), "")
        pooled = bool(query or document or tasks) and includes_prompt(directory)
        return Prompts(query, document, pooled, tasks, config.get(_SUFFIX, ""))

    def config(self) -> dict[str, object]:
        """Return the content of ``config_sentence_transformers.json`` from which ``from_directory`` reads this."""
        suffix = {_SUFFIX: self.suffix} if self.suffix else {}
        return {"prompts": self.named, "similarity_fn_name": "cosine", **suffix}


def split_template(template: str) -> tuple[str, str, str]:
    """Return what stands before ``{task}``, between it and ``{query}``, and behind ``{query}``.

    Raises:
        ValueError: The template does not hold both, each once and in this order.
    """
    before, has_task, rest = template.partition("{task}")
    between, has_query, behind = rest.partition("{query}")
    if not (has_task and has_query) or any(mark in before + behind for mark in ("{task}", "{query}")):
        raise ValueError(f"a template holds {{task}} and then {{query}}, each once, not {template!r}")
    if "{task}" in between:
        raise ValueError(f"a template holds {{task}} once, not {template!r}")
    return before, between, behind


def instructed(template: str, instructions: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields ``tasks`` and ``suffix`` of Prompts that follow from instructions.

    Args:
        template: Holds ``{task}`` and ``{query}``.
        instructions: Task of a query -> instruction.

    Raises:
        ValueError: The template does not hold both.
    """
    before, between, behind = split_template(template)
    tasks = tuple((task, before + text + between) for task, text in sorted(instructions.items()))
    return {"tasks": tasks, "suffix": behind}
