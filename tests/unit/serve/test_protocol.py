"""Every bad body is refused with a message that names the field; answers have OpenAI's form."""

import base64

import numpy as np
import orjson
import pytest

from serve.errors import ApiError, OverloadError, error_response
from serve.protocol import (
    EmbeddingsRequest,
    SearchRequest,
    SearchResult,
    check_dimensions,
    check_model,
    embeddings_answer,
    parse,
    parse_input,
    search_answer,
)


def test_minimal_body_takes_the_defaults() -> None:
    asked = parse(b'{"model":"m","input":"text"}', EmbeddingsRequest)
    assert (asked.encoding_format, asked.dimensions, asked.input_type, asked.truncate) == (
        "float", None, "document", "NONE",
    )  # fmt: skip


def test_null_means_left_out() -> None:
    asked = parse(b'{"model":"m","input":"a","dimensions":null,"encoding_format":null}', EmbeddingsRequest)
    assert asked.encoding_format == "float"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"", None, "no JSON"),
        (b"{", None, "no JSON"),
        (b"[1]", None, "object, not a list"),
        (b'{"input":"a"}', "model", "missing"),
        (b'{"model":"m"}', "input", "missing"),
        (b'{"model":null,"input":"a"}', "model", "string"),
        (b'{"model":7,"input":"a"}', "model", "string"),
        (b'{"model":"m","input":"a","encoding_format":"int8"}', "encoding_format", "'base64'"),
        (b'{"model":"m","input":"a","dimensions":"3"}', "dimensions", "integer"),
        (b'{"model":"m","input":"a","dimensions":true}', "dimensions", "integer"),
        (b'{"model":"m","input":"a","input_type":"passage"}', "input_type", "'document'"),
        (b'{"model":"m","input":"a","truncate":"START"}', "truncate", "'NONE'"),
        (b'{"model":"m","input":"a","dimension":3}', "dimension", "did you mean dimensions?"),
        (b'{"model":"m","input":"a","zzz":3}', "zzz", "known fields"),
    ],
)
def test_bad_bodies_of_embeddings(body: bytes, param: str | None, words: str) -> None:
    with pytest.raises(ApiError, match=words.replace("?", r"\?")) as caught:
        parse(body, EmbeddingsRequest)
    assert caught.value.status == 400
    assert caught.value.param == param


@pytest.mark.parametrize("body", [b'{"query":"a","k":0}', b'{"query":"a","k":1.5}', b'{"query":"a","k":"3"}'])
def test_bad_k(body: bytes) -> None:
    with pytest.raises(ApiError, match="k: "):
        parse(body, SearchRequest)


def test_four_forms_of_input() -> None:
    assert parse_input("a", 9) == (["a"], None)
    assert parse_input(["a", "b"], 9) == (["a", "b"], None)
    assert parse_input([1, 2], 9) == ([], [[1, 2]])
    assert parse_input([[1, 2], [3]], 9) == ([], [[1, 2], [3]])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not null"),
        (3, "not a number"),
        ({}, "not an object"),
        ([], "empty list"),
        ("", "empty string"),
        ("  \n", "empty string"),
        (["a", ""], r"input\[1\] is an empty string"),
        ([[]], "empty list of token ids"),
        (["a", 1], r"input\[1\] must be a string"),
        ([1, "a"], "token ids only, not a string"),
        ([[1], "a"], r"input\[1\] must be a string or a list of token ids, not a string"),
        ([[1, 2.5]], "token ids only"),
        ([True], "must be a string or a list of token ids, not a boolean"),
        ([None], "not null"),
        (["a"] * 4, "at most 3"),
    ],
)
def test_bad_inputs(value: object, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        parse_input(value, 3)
    assert (caught.value.status, caught.value.param) == (400, "input")


def test_a_long_list_of_ids_is_one_input() -> None:
    assert parse_input([5] * 100, 3) == ([], [[5] * 100])


def test_messages_quote_no_text() -> None:
    for body in (b'{"model":"m","input":"a","user":{"secret":1}}', b'{"model":"m","input":"secret","k":1}'):
        with pytest.raises(ApiError) as caught:
            parse(body, EmbeddingsRequest)
        assert "secret" not in caught.value.message


def test_model_and_dimensions() -> None:
    check_model("m", "m")
    check_model(None, "m")
    assert [check_dimensions(asked, (4, 2)) for asked in (None, 4, 2)] == [4, 4, 2]
    with pytest.raises(ApiError) as caught:
        check_model("gpt", "m")
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")
    for wrong in (2, 8, 0, -1):
        with pytest.raises(ApiError, match="not trained to be cut"):
            check_dimensions(wrong, (4,))
    with pytest.raises(
        ApiError, match="must be 2 or 4 or left out, got 3: this model was not trained for that"
    ):
        check_dimensions(3, (4, 2))


def test_float_and_base64_carry_the_same_numbers() -> None:
    emb_ND = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    plain = orjson.loads(embeddings_answer(emb_ND, "float", "m", 7))
    packed = orjson.loads(embeddings_answer(emb_ND, "base64", "m", 7))
    for index, row in enumerate(emb_ND):
        assert plain["data"][index]["index"] == index
        assert np.array_equal(np.array(plain["data"][index]["embedding"], np.float32), row)
        decoded = np.frombuffer(base64.b64decode(packed["data"][index]["embedding"]), "<f4")
        assert np.array_equal(decoded, row)
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (plain["object"], plain["model"], plain["data"][0]["object"]) == ("list", "m", "embedding")


def test_search_answer_mirrors_the_query() -> None:
    results = [[SearchResult(doc_id="d", score=0.5, title=None, text="t")]]
    single = orjson.loads(search_answer(results, True, "m", 1))
    several = orjson.loads(search_answer(results, False, "m", 1))
    assert single["results"] == [{"doc_id": "d", "score": 0.5, "text": "t"}]
    assert several["results"] == [single["results"]]


def test_overload_names_when_to_come_back() -> None:
    response = error_response(OverloadError(90, 100, 7))
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    error = orjson.loads(response.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
