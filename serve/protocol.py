"""The bodies of requests and answers: OpenAI's embeddings, and search. No I/O, no model."""

import base64
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, cast

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.prompts import Kind
from serve.errors import ApiError

Truncate = Literal["NONE", "END"]
Texts = list[str]
TokenIds = list[list[int]]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Body = TypeVar("Body", bound=_Body)


class EmbeddingsRequest(_Body):
    """The body of POST /v1/embeddings; ``input_type``, ``truncate`` and ``task`` are additions to OpenAI's.

    ``task`` names the instruction that stands before queries, of those that the model was tuned with.
    """

    model: str
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: Kind = "document"
    truncate: Truncate = "NONE"
    task: str = ""


class SearchRequest(_Body):
    """The body of POST /v1/search."""

    query: Any
    k: int = Field(10, ge=1)
    model: str | None = None
    truncate: Truncate = "NONE"
    task: str = ""


class SearchResult(BaseModel):
    """One document that was found."""

    doc_id: str
    score: float
    title: str | None
    text: str


def parse(raw: bytes, schema: type[Body]) -> Body:
    """Read a body, or say which field is wrong and what it may be.

    Args:
        raw: JSON.
        schema: EmbeddingsRequest or SearchRequest.

    Raises:
        ApiError: 400; the message names the field and never quotes a text.
    """
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiError(
            400, f"the body is no JSON: {error.msg} at character {error.pos}", code="invalid_json"
        ) from None
    if not isinstance(fields, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind_of(fields)}", code="invalid_json")
    # Clients send null for what their caller left out.
    given = {
        name: value
        for name, value in fields.items()
        if value is not None or name not in schema.model_fields or schema.model_fields[name].is_required()
    }
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise _explain(error, given, schema) from None


def _explain(error: ValidationError, given: Mapping[str, object], schema: type[_Body]) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return ApiError(400, f"{name} is missing", name, "missing_field")
    if first["type"] == "extra_forbidden":
        near = get_close_matches(name, list(schema.model_fields), 1)
        hint = f"did you mean {near[0]}?" if near else f"known fields: {', '.join(schema.model_fields)}"
        return ApiError(400, f"unknown field {name[:64]!r}; {hint}", name[:64], "unknown_field")
    got = given[name]
    shown = repr(got)[:64] if isinstance(got, str | int | float | bool) and name != "user" else _kind_of(got)
    return ApiError(
        400, f"{name}: {first['msg'][0].lower() + first['msg'][1:]}, got {shown}", name, "invalid_value"
    )


def parse_input(value: object, max_inputs: int, param: str = "input") -> tuple[Texts, TokenIds | None]:
    """Sort out the four forms of ``input``.

    Args:
        value: str, [str], [int] or [[int]].
        max_inputs: Most entries.
        param: The field's name, for messages.

    Returns:
        Texts and None, or no texts and the token ids of each entry.

    Raises:
        ApiError: 400 for an empty or mixed input, or too many entries.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise ApiError(
            400, f"{param} must be a string or a list, not {_kind_of(value)}", param, "invalid_value"
        )
    if not value:
        raise ApiError(400, f"{param} is an empty list", param, "empty_input")
    if _is_id(value[0]):
        value = [value]
    if len(value) > max_inputs:
        raise ApiError(
            400,
            f"{param} has {len(value)} entries; at most {max_inputs} fit one request",
            param,
            "too_many_inputs",
        )
    is_text = isinstance(value[0], str)
    for index, entry in enumerate(value):
        (_check_text if is_text else _check_ids)(entry, f"{param}[{index}]", param)
    return (cast(Texts, value), None) if is_text else ([], cast(TokenIds, value))


def _check_text(entry: object, where: str, param: str) -> None:
    if not isinstance(entry, str):
        raise ApiError(
            400, f"{where} must be a string like the first, not {_kind_of(entry)}", param, "invalid_value"
        )
    if not entry.strip():
        raise ApiError(400, f"{where} is an empty string", param, "empty_input")


def _check_ids(entry: object, where: str, param: str) -> None:
    if not isinstance(entry, list):
        expected = "a string or a list of token ids"
        raise ApiError(400, f"{where} must be {expected}, not {_kind_of(entry)}", param, "invalid_value")
    if not entry:
        raise ApiError(400, f"{where} is an empty list of token ids", param, "empty_input")
    for token in entry:
        if not _is_id(token):
            raise ApiError(
                400, f"{where} must hold token ids only, not {_kind_of(token)}", param, "invalid_value"
            )


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _kind_of(value: object) -> str:
    names: dict[type, str] = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "a number",
    }
    return "null" if value is None else names.get(type(value), "a number")


def check_model(asked: str | None, served: str) -> None:
    """Refuse a request for another model than the one served; "stope" is whatever is served.

    Raises:
        ApiError: 404.
    """
    if asked not in (None, "stope", served):
        raise ApiError(
            404, f"model {asked[:128]!r} is not served here; use {served!r}", "model", "model_not_found"
        )


def check_dimensions(asked: int | None, dimensions: Sequence[int]) -> int:
    """Return how many components are answered; a prefix means something only in a model trained for it.

    Args:
        asked: By the request; None: all.
        dimensions: All components, then the shorter ones that the model was trained for.

    Raises:
        ApiError: 400.
    """
    if asked is None:
        return dimensions[0]
    if asked not in dimensions:
        known = " or ".join(map(str, sorted(dimensions)))
        trained = "for that length" if len(dimensions) > 1 else "to be cut"
        raise ApiError(
            400,
            f"dimensions must be {known} or left out, got {asked}: this model was not trained {trained}",
            "dimensions",
            "invalid_value",
        )
    return asked


def embeddings_answer(
    embeddings_ND: np.ndarray, encoding_format: Literal["float", "base64"], model: str, num_tokens: int
) -> bytes:
    """Write the answer of /v1/embeddings.

    Args:
        embeddings_ND: float32 [N, D].
        encoding_format: ``"base64"`` is the little-endian float32 bytes.
        model: The served model's name.
        num_tokens: Tokens of all inputs, prompts and special tokens included.
    """
    rows: Sequence[object] = list(np.ascontiguousarray(embeddings_ND, dtype=np.float32))
    if encoding_format == "base64":
        rows = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in embeddings_ND]
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def search_answer(found: list[list[SearchResult]], is_single: bool, model: str, num_tokens: int) -> bytes:
    """Write the answer of /v1/search.

    Args:
        found: Results of each query, best first.
        is_single: The query was a string: ``results`` is a list of documents; else a list of such lists.
        model: The served model's name.
        num_tokens: Tokens of all queries.
    """
    lists = [[result.model_dump(exclude_none=True) for result in results] for results in found]
    answer = {
        "object": "search",
        "results": lists[0] if is_single else lists,
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return orjson.dumps(answer)
