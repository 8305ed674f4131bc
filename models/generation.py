"""Queries that a causal language model writes for documents: prompts, and what is written behind them.

Shapes: P prompts, B of one batch, T tokens.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import ModelError
from models.inference import BATCH_MULTIPLE, plan_batches
from models.layout import max_positions, read_config
from models.reranking.description import ARCHITECTURES
from models.tokenization import Tokens, padded_length
from models.tokenizer_files import deserialize, load_backend, load_tokenizer

TEMPLATE = "Document: {document}\nQuery:"
"""A document, and where the query begins: what language models continue without any instruction."""


METHOD = "query_likelihood"
"""What a causal language model with its head is called where it reranks."""


def check_writer(directory: Path) -> None:
    """Refuse a model that writes no text.

    Raises:
        ModelError: Its architecture has no head of a causal language model.
    """
    named = [str(name) for name in read_config(directory).get("architectures") or ()]
    fitting = ARCHITECTURES[METHOD]
    if named and not any(name.endswith(fitting) for name in named):
        raise ModelError(
            "this model writes no text",
            str(directory),
            got=", ".join(named),
            expected="an architecture *" + " or *".join(fitting),
            fix="name a causal language model under mine.generate.source",
        )


class QueryPrompts:
    """Turn documents into prompts; it pickles with the whole tokenizer in it, as TextTokenizer does.

    Args:
        directory: The model's directory.
        template: Text that holds {document} and ends where the query begins.
        examples: (query, document) pairs that stand before, in the same template.
        max_document_tokens: Documents are cut here.
        max_query_tokens: Tokens that are to be written; queries of examples are cut there.
        token_budget: Tokens of a batch, which holds one prompt at least.

    Raises:
        ModelError: No model here, or its positions, or a batch, do not hold a prompt.
    """

    def __init__(
        self,
        directory: str | Path,
        template: str,
        examples: Sequence[tuple[str, str]],
        max_document_tokens: int,
        max_query_tokens: int,
        token_budget: int,
    ) -> None:
        self._serialized = load_backend(Path(directory)).to_str()
        self._template, self._max_document_tokens = template, max_document_tokens
        queries = self._cut([query for query, _ in examples], max_query_tokens)
        documents = self._cut([document for _, document in examples], max_document_tokens)
        self._before = "".join(
            f"{self._rendered(document)} {query}\n\n"
            for query, document in zip(queries, documents, strict=True)
        )
        positions = max_positions(read_config(Path(directory)))
        fixed = len(self._backend.encode(self._before + self._rendered("")).ids)
        longest = fixed + max_document_tokens + max_query_tokens
        if positions is not None and longest > positions:
            raise ModelError(
                "a prompt does not fit the model's positions",
                str(directory),
                got=f"up to {longest} tokens: {fixed} of template and examples, document and query",
                expected=f"at most {positions}",
                fix="lower examples, max_document_tokens or max_query_tokens",
            )
        if padded_length(longest, BATCH_MULTIPLE) > token_budget:
            raise ModelError(
                "a prompt does not fit a batch",
                str(directory),
                got=f"up to {longest} tokens: {fixed} of template and examples, document and query",
                expected=f"at most token_budget, {token_budget}",
                fix=f"set token_budget to {padded_length(longest, BATCH_MULTIPLE)} or more, or lower examples",
            )

    def tokenize(self, documents: Sequence[str]) -> Tokens:
        """Return the tokens of P prompts, one a document."""
        prompts = [
            self._before + self._rendered(document)
            for document in self._cut(documents, self._max_document_tokens)
        ]
        rows = [encoding.ids for encoding in self._backend.encode_batch(prompts)]
        lengths = np.array([0, *map(len, rows)], np.int64)
        ids = np.concatenate([np.zeros(0, np.int32), *(np.array(row, np.int32) for row in rows)])
        return Tokens(ids, lengths.cumsum(), np.zeros(len(rows), np.int32))

    @property
    def _backend(self) -> Any:
        return deserialize(self._serialized, None)

    def _rendered(self, document: str) -> str:
        return self._template.replace("{document}", document)

    def _cut(self, texts: Sequence[str], limit: int) -> list[str]:
        texts = [_one_line(text) for text in texts]
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            text[: encoding.offsets[limit - 1][1]] if len(encoding.ids) > limit else text
            for text, encoding in zip(texts, encodings, strict=True)
        ]


class QueryWriter:
    """A causal language model that continues prompts, each token the likeliest one, to the end of the line.

    Args:
        directory: As ``models.checkpoint.resolve_model`` returns it.
        dtype: Of weights and activations.
        device: ``"cpu"`` or ``"cuda"``.
        token_budget: Tokens of one batch, padding and what is written counted.
        max_query_tokens: Tokens that are written.

    Raises:
        ModelError: No causal language model here.
    """

    def __init__(
        self, directory: str | Path, *, dtype: str, device: str, token_budget: int, max_query_tokens: int
    ) -> None:
        from models.reranking.network import load_network

        network: Any = load_network(directory, METHOD, dtype, device)
        self._tokenizer = load_tokenizer(Path(directory))
        self._token_budget, self._max_new = token_budget, max_query_tokens
        declared = network.generation_config.eos_token_id
        self._ends: set[int] = {declared} if isinstance(declared, int) else set(declared or ())
        # What it says else (penalties, beams) would be taken for all that we leave open.
        network.generation_config = type(network.generation_config)()
        self._network = network

    def write(self, prompts: Tokens) -> list[str]:
        """Return what is written behind each of P prompts: one line, empty where there is none.

        Raises:
            ModelError: A prompt is longer than the token budget.
        """
        import torch

        written = [""] * len(prompts)
        for rows in plan_batches(prompts.lengths + self._max_new, self._token_budget):
            batch = prompts.take(rows)
            shared = 0 if self._slides(batch) else _num_shared(batch)
            ids_BT, mask_BT = (
                torch.from_numpy(each).to(self._network.device) for each in _padded(batch, shared)
            )
            with torch.inference_mode():
                out_BT = self._network.generate(
                    input_ids=ids_BT,
                    attention_mask=mask_BT,
                    past_key_values=self._read(ids_BT[:1, :shared], len(rows)),
                    generation_config=self._settings,
                )
            texts = self._tokenizer.batch_decode(out_BT[:, ids_BT.shape[1] :], skip_special_tokens=True)
            for row, text in zip(rows.tolist(), texts, strict=True):
                written[row] = first_line(text)
        return written

    def _slides(self, tokens: Tokens) -> bool:
        """Return whether padding behind what is shared would take up a part of a layer's window."""
        window: int | None = getattr(self._network.config, "sliding_window", None)
        return window is not None and int(tokens.lengths.max()) + self._max_new > window

    def _read(self, ids_1T: Any, num_prompts: int) -> Any:
        """Return keys and values of what all prompts of a batch begin with: the examples are read once for all."""
        if not ids_1T.shape[1]:
            return None
        cache = self._network(input_ids=ids_1T, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(num_prompts)
        return cache

    @cached_property
    def _settings(self) -> Any:
        from transformers import GenerationConfig

        # A line has ended with any token that holds its end.
        pieces = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
        ends = {token for token, piece in enumerate(pieces) if "\n" in piece} | self._ends
        return GenerationConfig(
            max_new_tokens=self._max_new,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
            use_cache=True,
        )


def first_line(text: str) -> str:
    """Return the first line that a continuation has, without the space around it."""
    return text.strip(" ").split("\n", 1)[0].strip()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _num_shared(tokens: Tokens) -> int:
    """Return how many tokens all prompts begin with; each has one more at least."""
    length = max(0, int(tokens.lengths.min()) - 1)
    heads_BT = np.stack([tokens.ids[start : start + length] for start in tokens.offsets[:-1]])
    return int(np.cumprod((heads_BT == heads_BT[0]).all(axis=0)).sum())


def _padded(tokens: Tokens, shared: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and mask, int64 [B, T]: padding lies behind the shared tokens, none before what is written."""
    width = int(tokens.lengths.max())
    ids_BT, mask_BT = (np.zeros((len(tokens), width), np.int64) for _ in range(2))
    ids_BT[:, :shared], mask_BT[:, :shared] = tokens.ids[:shared], 1
    for row, (start, length) in enumerate(zip(tokens.offsets[:-1], tokens.lengths, strict=True)):
        own = length - shared
        ids_BT[row, width - own :] = tokens.ids[start + shared : start + length]
        mask_BT[row, width - own :] = 1
    return ids_BT, mask_BT
