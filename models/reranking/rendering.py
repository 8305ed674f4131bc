"""How a query and a document become the one text that a reranker reads; no weights, no torch."""

from dataclasses import dataclass

from models.errors import ModelError

CHARACTERS_PER_TOKEN = 32
"""A text is cut at this many characters for each token of its limit before it is tokenised, so that a document
of megabytes costs no more than a long one. Words of natural language have fewer characters a token by far."""

QUERY, DOCUMENT = "{query}", "{document}"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_YES_NO = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
_QUERY_LIKELIHOOD = "Passage: {document}\nPlease write a question based on this passage.\nQuestion: {query}"
TEMPLATES = {"cross_encoder": "", "yes_no": _YES_NO, "query_likelihood": _QUERY_LIKELIHOOD}
"""Method -> its own template: yes_no as Qwen3-Reranker was trained (arXiv 2506.05176), query_likelihood after UPR
(arXiv 2204.07496); a cross-encoder has none, as its tokenizer joins the two texts."""


@dataclass(frozen=True)
class Rendering:
    """How a pair becomes one sequence of tokens; everything here changes the scores.

    Args:
        method: A name in TEMPLATES.
        template: Text with ``{query}`` and ``{document}``, the instruction filled in; empty for cross-encoders.
        answers: The words whose logits yes_no compares, yes first.
        max_query_tokens: Queries are cut here, special tokens and template not counted.
        max_document_tokens: Documents are cut here, or earlier, where the model's positions end.
    """

    method: str
    template: str
    answers: tuple[str, str]
    max_query_tokens: int
    max_document_tokens: int

    @property
    def parts(self) -> tuple[str, str, str]:
        """The template before, between and after its two texts."""
        head, _, rest = self.template.partition(min(QUERY, DOCUMENT, key=self.template.index))
        middle, _, tail = rest.partition(DOCUMENT if DOCUMENT in rest else QUERY)
        return head, middle, tail

    def cut_query(self, text: str) -> str:
        """Return the characters of a query that can matter."""
        return text[: self.max_query_tokens * CHARACTERS_PER_TOKEN]

    def cut_document(self, text: str) -> str:
        """Return the characters of a document that can matter."""
        return text[: self.max_document_tokens * CHARACTERS_PER_TOKEN]


def make_rendering(
    method: str,
    *,
    instruction: str | None = None,
    template: str | None = None,
    answers: tuple[str, str] = ("yes", "no"),
    max_query_tokens: int = 64,
    max_document_tokens: int = 256,
) -> Rendering:
    """Fill in what is not said, and check what is.

    Args:
        method: A name in TEMPLATES.
        instruction: Stands in the template for ``{instruction}``; None: that of Qwen3-Reranker.
        template: None: the method's own.
        answers: Of yes_no.
        max_query_tokens: At least 1.
        max_document_tokens: At least 1.

    Raises:
        ModelError: The template lacks a text, holds one twice or in the wrong order, or nothing takes the
            instruction.
    """
    if method not in TEMPLATES:
        raise ModelError("unknown method of reranking", got=repr(method), expected=", ".join(TEMPLATES))
    text = TEMPLATES[method] if template is None else template
    if method == "cross_encoder" and text:
        raise ModelError(
            "a cross-encoder has no template",
            got=repr(template),
            fix="drop `template`: its tokenizer joins the texts",
        )
    if instruction is not None and "{instruction}" not in text:
        raise ModelError(
            "nothing takes the instruction",
            got=repr(instruction),
            expected="{instruction} in the template",
            fix="drop `instruction`, or name a template that holds {instruction}",
        )
    if text:
        _check_order(method, text)
    rendering = Rendering(
        method=method,
        template=text.replace("{instruction}", DEFAULT_INSTRUCTION if instruction is None else instruction),
        answers=answers,
        max_query_tokens=max_query_tokens,
        max_document_tokens=max_document_tokens,
    )
    if rendering.template:
        _check_order(method, rendering.template)
    return rendering


def _check_order(method: str, template: str) -> None:
    counts = (template.count(QUERY), template.count(DOCUMENT))
    order = (QUERY, DOCUMENT) if method == "yes_no" else (DOCUMENT, QUERY)
    wrong = counts != (1, 1) or template.index(order[0]) > template.index(order[1])
    if wrong or (method == "query_likelihood" and not template.endswith(QUERY)):
        expected = f"{order[0]}, then {order[1]}, each once"
        raise ModelError(
            "the template does not hold its texts",
            got=repr(template[:120]),
            expected=expected + (", which ends it" if method == "query_likelihood" else ""),
            fix="write the template anew, or drop it for the method's own",
        )
