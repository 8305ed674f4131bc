"""Rerankers against transformers, one pair at a time."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.errors import ModelError
from models.packed import packed_states
from models.reranker import RERANKERS, load_reranker
from models.reranking.description import reranker_digest
from models.reranking.network import check_causal
from models.reranking.pair_tokens import PairTokenizer
from models.reranking.rendering import DEFAULT_INSTRUCTION, TEMPLATES, make_rendering
from models.reranking.scorers import CrossEncoder
from models.states import fast_states
from tests.tiny_rerankers import WORDS, make_cross_encoder, make_decoder

METHODS = tuple(RERANKERS)
LONG = " ".join(WORDS) * 3


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rerankers")
    decoder = make_decoder(folder / "decoder")
    return {
        "cross_encoder": make_cross_encoder(folder / "cross"),
        "two_labels": make_cross_encoder(folder / "two", labels=2, types=False),
        "yes_no": decoder,
        "query_likelihood": decoder,
    }


@pytest.fixture(scope="module")
def pairs():
    generator = np.random.default_rng(0)
    made = [
        (" ".join(generator.choice(WORDS, 3)), " ".join(generator.choice(WORDS, length)))
        for length in generator.integers(1, 20, 15)
    ]
    return [*made, ("", "w1 w2"), ("w1", ""), ("w1 w2", "a\nnew line w3"), (made[0][0], made[1][1])]


def rendering(method, **settings):
    return make_rendering(method, **{"max_query_tokens": 16, "max_document_tokens": 40, **settings})


def peer(directory, kind):
    import transformers

    model = getattr(transformers, kind).from_pretrained(str(directory), dtype="float32").eval()
    return model, transformers.AutoTokenizer.from_pretrained(str(directory))


@torch.no_grad()
def naive_cross_encoder(directory, pairs):
    model, tokenizer = peer(directory, "AutoModelForSequenceClassification")
    out = []
    for query, document in pairs:
        logits = model(**tokenizer([query], [document], return_tensors="pt")).logits[0]
        out.append(float(logits[0] if len(logits) == 1 else logits[1] - logits[0]))
    return np.array(out)


@torch.no_grad()
def naive_yes_no(directory, pairs):
    model, tokenizer = peer(directory, "AutoModelForCausalLM")
    yes, no = (tokenizer.encode(word)[0] for word in ("yes", "no"))
    out = []
    for query, document in pairs:
        text = TEMPLATES["yes_no"].replace("{instruction}", DEFAULT_INSTRUCTION)
        text = text.replace("{query}", query).replace("{document}", document)
        logits = model(input_ids=torch.tensor([tokenizer.encode(text)])).logits[0, -1]
        out.append(float(torch.softmax(logits[[yes, no]], 0)[0]))
    return np.array(out)


@torch.no_grad()
def naive_query_likelihood(directory, pairs):
    model, tokenizer = peer(directory, "AutoModelForCausalLM")
    out = []
    for query, document in pairs:
        head, tail = TEMPLATES["query_likelihood"].replace("{document}", document).split("{query}")
        assert not tail
        prompt, asked = tokenizer.encode(head), tokenizer.encode(head + query)
        # " w" is one token, so the space before the query's first word belongs to the query.
        start = next((i for i, (a, b) in enumerate(zip(prompt, asked, strict=False)) if a != b), len(prompt))
        logits = model(input_ids=torch.tensor([asked])).logits[0].log_softmax(-1)
        terms = [float(logits[i - 1, asked[i]]) for i in range(start, len(asked))]
        out.append(np.mean(terms) if terms else 0.0)
    return np.array(out)


NAIVE = {
    "cross_encoder": naive_cross_encoder,
    "two_labels": naive_cross_encoder,
    "yes_no": naive_yes_no,
    "query_likelihood": naive_query_likelihood,
}


def open_reranker(directories, method, dtype="float32", **settings):
    return load_reranker(
        directories[method], rendering(method.replace("two_labels", "cross_encoder"), **settings), dtype
    )


@pytest.mark.parametrize("method", NAIVE)
def test_equal_to_transformers_one_pair_at_a_time(directories, pairs, method):
    if method in ("yes_no", "query_likelihood"):
        pairs = pairs[10:]
    scores = open_reranker(directories, method, max_document_tokens=500).score(pairs, 1024)
    expected = NAIVE[method](directories[method], pairs)
    assert scores.dtype == np.float32 and np.ptp(expected) > 1e-3
    np.testing.assert_allclose(scores, expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("method", NAIVE)
def test_states_computed_otherwise_give_the_scores_of_the_network(directories, pairs, method, monkeypatch):
    reranker = open_reranker(directories, method)
    base = reranker.scorer.network.base_model
    assert fast_states(base) is not None
    fast = reranker.score(pairs)
    for states in (None, lambda *inputs: packed_states(base, *inputs)):
        monkeypatch.setattr("models.reranker.fast_states", lambda _base, states=states: states)
        np.testing.assert_allclose(reranker.score(pairs), fast, atol=3e-6, rtol=1e-5)
    assert "forward" not in vars(base), "the backbone is as it was"


# Random weights of 64 columns lose more in 4 bits than real ones, which is told by the correlation alone.
@pytest.mark.parametrize(("quantize", "least"), [("8bit", 0.9), ("4bit", 0.6)])
@pytest.mark.parametrize("method", ["cross_encoder", "yes_no"])
def test_few_bits_score_nearly_the_same_and_spare_the_head(tmp_path, pairs, method, quantize, least):
    import transformers

    make = {"cross_encoder": make_cross_encoder, "yes_no": make_decoder}[method]
    directory = make(tmp_path / "model")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "initializer_range": 0.05}
    config = transformers.AutoConfig.from_pretrained(directory)
    config.update(sizes)
    torch.manual_seed(0)
    getattr(transformers, config.architectures[0])(config).save_pretrained(directory)
    whole = load_reranker(directory, rendering(method, max_document_tokens=500)).score(pairs)
    reranker = load_reranker(directory, rendering(method, max_document_tokens=500), quantize=quantize)
    kinds = {type(module).__name__ for module in reranker.scorer.network.base_model.modules()}
    assert {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantize] in kinds
    head = {"cross_encoder": "classifier", "yes_no": "lm_head"}[method]
    assert type(getattr(reranker.scorer.network, head)) is torch.nn.Linear
    found = reranker.score(pairs)
    assert np.corrcoef(found, whole)[0, 1] > least and np.abs(found - whole).max() > 0


def test_threads_take_turns(directories, pairs):
    reranker = open_reranker(directories, "cross_encoder")
    expected = reranker.score(pairs)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: reranker.score(pairs), range(24)):
            np.testing.assert_array_equal(found, expected)


def classifier(family, **settings):
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AutoConfig.for_model(
        family, vocab_size=96, num_labels=1, pad_token_id=1, initializer_range=0.3, **sizes, **settings
    )
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        *((name, {}) for name in ("bert", "roberta", "xlm-roberta", "camembert")),
        *(("modernbert", {"classifier_pooling": pooling}) for pooling in ("cls", "mean")),
        *((name, {"num_key_value_heads": 1}) for name in ("llama", "mistral", "qwen2", "qwen3")),
    ],
)
def test_the_head_of_every_family_runs_on_states_computed_otherwise(family, settings):
    scorer = CrossEncoder(classifier(family, **settings), SimpleNamespace(directory="the/model"))
    lengths_B1 = torch.tensor([[9], [14], [3]])
    mask_BT = (torch.arange(16) < lengths_B1).long()
    ids_BT = torch.randint(5, 90, (3, 16), generator=torch.Generator().manual_seed(1)) * mask_BT
    second_BT = (torch.arange(16) >= 2).long() * mask_BT
    with torch.inference_mode():
        expected_B = scorer(ids_BT, mask_BT, second_BT)
        assert expected_B.std() > 1e-3
        base = scorer.network.base_model
        scorer.states = lambda *inputs: packed_states(base, *inputs)
        torch.testing.assert_close(scorer(ids_BT, mask_BT, second_BT), expected_B, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 0.05)])
def test_a_score_does_not_depend_on_its_neighbours(directories, pairs, method, dtype, tolerance):
    template = {"yes_no": "{query} {document}"}.get(method)
    reranker = open_reranker(directories, method, dtype, template=template)
    alone = np.concatenate([reranker.score([pair]) for pair in pairs[:6]])
    short = reranker.score([*pairs[:6], ("w1", "w2")])[:6]
    long = reranker.score([*pairs[:6], ("w1", LONG), ("w2 " * 12, LONG)])[:6]
    scale = np.abs(alone).max()
    np.testing.assert_allclose(short, alone, atol=tolerance * scale)
    np.testing.assert_allclose(long, alone, atol=tolerance * scale)


@pytest.mark.parametrize("method", METHODS)
def test_the_document_is_cut_and_nothing_else(directories, method):
    query = "w7 w8 w9"
    tokenizer = PairTokenizer(directories[method], rendering(method, max_document_tokens=7))
    whole, cut = (tokenizer.tokenize([(query, text)]) for text in (LONG * 50, "w1"))
    # A byte-level word of two letters is "w" and a digit: the cut falls inside, at exactly seven tokens.
    one = {"cross_encoder": 1, "yes_no": 2, "query_likelihood": 2}[method]
    assert len(whole.ids) - len(cut.ids) == 7 - one
    text = tokenizer.backend.decode(whole.ids.tolist(), skip_special_tokens=False)
    assert query in text and text.count("w") < 60
    if method != "cross_encoder":
        document = {"yes_no": "w0 w1 w2 w<|im_end|>", "query_likelihood": "w0 w1 w2 w\nPlease"}[method]
        assert document in text and text.startswith(TEMPLATES[method][:9])


def test_positions_cut_the_document_too(directories):
    tokenizer = PairTokenizer(
        directories["cross_encoder"], rendering("cross_encoder", max_document_tokens=500)
    )
    tokens = tokenizer.tokenize([("w1 " * 50, LONG), ("w1", LONG)])
    assert tokens.lengths.tolist() == [64, 64]
    assert tokens.ids[:18].tolist() == [2, *[5] * 16, 3]
    assert tokens.pool_starts.tolist() == [18, 3]


def test_a_template_without_room_for_a_document_is_refused(tmp_path):
    directory = make_decoder(tmp_path / "short", positions=128)
    with pytest.raises(ModelError, match="no room"):
        PairTokenizer(directory, rendering("yes_no")).tokenize([("w1", "w2")])


def test_a_long_query_is_cut_at_its_limit(directories):
    for method in ("yes_no", "query_likelihood"):
        tokenizer = PairTokenizer(directories[method], rendering(method, max_query_tokens=4))
        whole, cut = (tokenizer.tokenize([(text, "w1")]) for text in ("w1 w2 w3", "w1 w2"))
        np.testing.assert_array_equal(whole.ids, cut.ids)


def test_special_tokens_of_the_model_come_first(directories, tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing

    directory = shutil.copytree(directories["yes_no"], tmp_path / "bos")
    backend = Tokenizer.from_file(str(directory / "tokenizer.json"))
    bos = backend.token_to_id("<|im_start|>")
    backend.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", bos)]
    )
    backend.save(str(directory / "tokenizer.json"))
    for method in ("yes_no", "query_likelihood"):
        plain, led = (
            PairTokenizer(each, rendering(method)).tokenize([("w1", "w2")])
            for each in (directories[method], directory)
        )
        assert led.ids.tolist() == [bos, *plain.ids.tolist()]
        assert led.pool_starts[0] == (plain.pool_starts[0] + 1 if method == "query_likelihood" else 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_that_is_not_finite_names_its_pair(directories, tmp_path, method):
    directory = shutil.copytree(directories[method], tmp_path / "broken")
    reranker = load_reranker(directory, rendering(method))
    embeddings = reranker.scorer.network.get_input_embeddings().weight
    bad = reranker.tokenizer.backend.encode("w5" if method == "cross_encoder" else "$").ids[0]
    if method == "cross_encoder":
        bad = reranker.tokenizer.backend.token_to_id("w5")
    with torch.no_grad():
        embeddings[bad] = float("nan")
    good = ("w1", "w2")
    if method != "yes_no" and not reranker.scorer.network.config.tie_word_embeddings:
        assert np.isfinite(reranker.score([good])).all()
    with pytest.raises(ModelError, match=r"not finite(.|\n)*'w9'"):
        reranker.score([good, ("w9", "w5 $"), good][1:])


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_do_not_fit_are_refused(directories, tmp_path, method):
    directory = shutil.copytree(directories[method], tmp_path / "copy")
    weights = load_file(directory / "model.safetensors")
    name = next(key for key in weights if "layers.1" in key or "layer.1" in key)
    save_file({**weights, "left.over": torch.zeros(1)}, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 left over: left.over"):
        load_reranker(directory, rendering(method))
    del weights[name]
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"1 missing(.|\n)*fix"):
        load_reranker(directory, rendering(method))


def test_another_kind_of_model_is_refused(directories, tiny_model):
    with pytest.raises(ModelError, match="write method: cross_encoder"):
        load_reranker(directories["cross_encoder"], rendering("yes_no"))
    with pytest.raises(ModelError, match="no reranker of method cross_encoder"):
        load_reranker(tiny_model, rendering("cross_encoder"))
    with pytest.raises(ModelError, match="not one token"):
        open_reranker(directories, "yes_no", answers=("relevant", "no"))


def test_a_decoder_that_looks_ahead_is_refused(directories):
    network, _ = peer(directories["yes_no"], "AutoModelForCausalLM")
    head = network.get_output_embeddings()
    check_causal(network, lambda hidden: head(hidden).float(), "here")
    with pytest.raises(ModelError, match="treats its logits"):
        check_causal(network, lambda hidden: 2 * head(hidden).float(), "here")
    network.config.is_causal = False
    for layer in network.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(ModelError, match="no left-to-right decoder"):
        check_causal(network, lambda hidden: head(hidden).float(), "here")


def test_the_digest_follows_bytes_and_template(directories, tmp_path):
    directory = shutil.copytree(directories["yes_no"], tmp_path / "copy")
    digest = reranker_digest(directory, rendering("yes_no"))
    assert digest == reranker_digest(directories["yes_no"], rendering("yes_no")) and len(digest) == 64
    others = [{"instruction": "Judge"}, {"max_document_tokens": 41}, {"answers": ("Yes", "No")}]
    changed = {reranker_digest(directory, rendering("yes_no", **settings)) for settings in others}
    weights = load_file(directory / "model.safetensors")
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name] + 1e-3}, directory / "model.safetensors", {"format": "pt"})
    changed |= {reranker_digest(directory, rendering("yes_no")), digest}
    assert len(changed) == 5


def test_the_description_loads_no_torch(directories):
    import subprocess
    import sys

    code = (
        "import sys; from models.reranking.description import check_architecture, reranker_digest;"
        "from models.reranking.rendering import make_rendering;"
        f"reranker_digest({str(directories['yes_no'])!r}, make_rendering('yes_no'));"
        "print(sorted(name for name in ('torch', 'transformers', 'tokenizers') if name in sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "yes_no", "template": "{query}"}, "does not hold its texts"),
        ({"method": "yes_no", "template": "{document} {query}"}, "does not hold its texts"),
        ({"method": "query_likelihood", "template": "{document} {query} ?"}, "which ends it"),
        ({"method": "query_likelihood", "instruction": "x"}, "nothing takes the instruction"),
        ({"method": "yes_no", "instruction": "{document}"}, "does not hold its texts"),
        ({"method": "cross_encoder", "template": "{query}{document}"}, "has no template"),
        ({"method": "colbert"}, "unknown method"),
    ],
)
def test_a_wrong_rendering_is_refused(settings, message):
    with pytest.raises(ModelError, match=message):
        make_rendering(**settings)


def test_texts_that_look_like_placeholders_stay_texts(directories):
    tokenizer = PairTokenizer(directories["yes_no"], rendering("yes_no", max_query_tokens=64))
    tokens = tokenizer.tokenize([("{document}", "{query} {instruction}")])
    text = tokenizer.backend.decode(tokens.ids.tolist(), skip_special_tokens=False)
    assert "<Query>: {document}\n<Document>: {query} {instruction}<|im_end|>" in text


def test_a_tokenizer_travels(directories):
    tokenizer = PairTokenizer(directories["yes_no"], rendering("yes_no"))
    again = pickle.loads(pickle.dumps(tokenizer))
    pair = [("w1", "w2 w3")]
    np.testing.assert_array_equal(again.tokenize(pair).ids, tokenizer.tokenize(pair).ids)


def test_no_pairs(directories):
    for method in METHODS:
        assert open_reranker(directories, method).score([]).shape == (0,)


def test_a_config_of_three_labels_is_refused(directories, tmp_path):
    directory = shutil.copytree(directories["two_labels"], tmp_path / "three")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(
        json.dumps({**config, "id2label": {str(i): f"L{i}" for i in range(3)}})
    )
    with pytest.raises(ModelError, match="3 labels"):
        load_reranker(directory, rendering("cross_encoder"))
