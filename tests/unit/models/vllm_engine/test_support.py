"""What engine vllm does not compute is refused by a model's config alone, with the reason, vLLM installed or not."""

import importlib.metadata

import numpy as np
import pytest

from models.errors import ModelError
from models.prompts import Prompts
from models.tokenization import Tokens
from models.vllm_engine import support
from models.vllm_engine.start import prompts_of
from models.vllm_engine.support import check_encoder, check_reranker, installed_version, pools_outside

LLAMA = {"model_type": "llama"}


@pytest.mark.parametrize(
    ("config", "settings", "reason"),
    [
        ({"model_type": "bert", "moe": {"num_experts": 4}}, {}, "the model has experts"),
        ({"model_type": "deberta-v2"}, {}, "model_type deberta-v2"),
        # Its logits are capped in vLLM and are not in our attention kernel.
        ({"model_type": "gemma2"}, {}, "model_type gemma2"),
        (LLAMA, {"pooling": "latent_attention"}, "pooling latent_attention"),
        (LLAMA, {"quantize": "4bit"}, "quantize 4bit"),
        ({"model_type": "gemma"}, {"attention": "bidirectional"}, "bidirectional attention"),
        ({"model_type": "gemma", "is_causal": False}, {}, "bidirectional attention"),
        ({"model_type": "bert", "is_decoder": True}, {}, "causal attention"),
        (
            {"model_type": "mistral", "sliding_window": 64},
            {"attention": "bidirectional", "max_tokens": 65},
            "a window of 64 tokens",
        ),
    ],
)
def test_encoders_that_it_would_embed_otherwise(config, settings, reason):
    with pytest.raises(ModelError, match=reason) as error:
        check_encoder(config, "the/model", **{"pooling": "mean", **settings})
    assert "the/model" in str(error.value) and "write engine: torch" in str(error.value)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"model_type": "bert"}, {"pooling": "cls"}),
        (LLAMA, {"pooling": "last"}),
        (LLAMA | {"is_causal": False}, {}),
        ({"model_type": "mistral", "sliding_window": 64}, {"attention": "causal", "max_tokens": 512}),
        ({"model_type": "mistral", "sliding_window": 64}, {"attention": "bidirectional", "max_tokens": 64}),
        (
            {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False},
            {"attention": "bidirectional", "max_tokens": 512},
        ),
    ],
)
def test_encoders_that_it_embeds_alike(config, settings):
    check_encoder(config, "the/model", **{"pooling": "mean", **settings})


def test_rerankers():
    check_reranker(LLAMA, "x", "yes_no")
    check_reranker(LLAMA, "x", "query_likelihood")
    check_reranker({"model_type": "bert"}, "x", "cross_encoder")
    with pytest.raises(ModelError, match="a cross-encoder of model_type llama"):
        check_reranker(LLAMA, "x", "cross_encoder")
    with pytest.raises(ModelError, match="bidirectional attention"):
        check_reranker(LLAMA | {"is_causal": False}, "x", "yes_no")
    with pytest.raises(ModelError, match="whole weights"):
        check_reranker(LLAMA, "x", "yes_no", "8bit")
    with pytest.raises(ModelError, match="experts"):
        check_reranker(LLAMA | {"moe": {"num_experts": 2}}, "x", "yes_no")


def test_states_leave_the_engine_only_where_a_prompt_is_not_averaged():
    asked = Prompts(query="query: ")
    assert pools_outside("mean", asked) and pools_outside("mean", Prompts(tasks=(("sts", "Compare: "),)))
    assert not pools_outside("cls", asked) and not pools_outside("last", asked)
    assert not pools_outside("mean", Prompts()) and not pools_outside("mean", Prompts("query: ", pooled=True))


def test_an_absent_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(support, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"stope\[vllm\]"):
        installed_version()


@pytest.mark.parametrize("name", support.DISTRIBUTIONS)
def test_either_build_is_found(monkeypatch, name):
    def version(asked):
        if asked != name:
            raise importlib.metadata.PackageNotFoundError(asked)
        return "0.32.0"

    monkeypatch.setattr(support, "find_spec", lambda name: object())
    monkeypatch.setattr(support, "version", version)
    assert installed_version() == "0.32.0"


def test_prompts_are_the_tokens():
    tokens = Tokens(np.array([5, 6, 7], np.int32), np.array([0, 2, 2, 3]), np.zeros(3, np.int32))
    assert prompts_of(tokens) == [{"prompt_token_ids": ids} for ids in ([5, 6], [], [7])]
