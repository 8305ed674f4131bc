"""Merged models: the slerp formula to the last digits, the mean of a soup, and what is refused."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import load_encoder, save_encoder
from models.errors import ModelError
from models.latent_attention import LatentAttention
from models.merging import slerp, slerp_tensors, soup
from models.prompts import Prompts
from models.sentence_modules import LATENT_ATTENTION_FOLDER
from tests.unit.models.conftest import build_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return [build_model(tmp_path_factory.mktemp("merge") / str(seed), seed=seed) for seed in range(3)]


def weights(directory):
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_is_the_formula(t):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs = list(zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))
    norms = [math.sqrt(sum(pair[side] ** 2 for pair in pairs)) for side in (0, 1)]
    angle = math.acos(sum(x * y for x, y in pairs) / norms[0] / norms[1])
    expected = [(math.sin((1 - t) * angle) * x + math.sin(t * angle) * y) / math.sin(angle) for x, y in pairs]
    found = slerp_tensors(a, b, t)
    assert found.shape == (3, 5) and found.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("angle", [3.1, 1.5, 1e-2, 1e-4, 3e-6, 1e-7, 1e-9, 0.0])
def test_nearly_parallel_vectors_stay_on_the_arc(angle):
    for t in (0.1, 0.5, 0.9):
        a, b = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]], dtype=torch.float64)
        x, y = slerp_tensors(a, b, t).tolist()
        assert x == pytest.approx(math.cos(t * angle), rel=1e-9)
        # The point of the line differs from that of the arc by a third power.
        assert y == pytest.approx(math.sin(t * angle), rel=1e-9, abs=1e-18)


def test_the_lengths_of_parallel_vectors_are_mixed():
    a = torch.tensor([1.0, 2.0])
    assert slerp_tensors(a, 3 * a, 0.25).tolist() == pytest.approx([1.5, 3.0])


def test_where_no_arc_is_defined_the_line_is_taken():
    a = torch.tensor([1.0, -2.0])
    assert slerp_tensors(a, -a, 0.25).tolist() == [0.5, -1.0]
    assert slerp_tensors(torch.zeros(2), a, 0.5).tolist() == [0.5, -1.0]
    # float32 rounds here; what it cannot tell from opposite must not be blown up.
    assert slerp_tensors(a, -a * (1 + 1e-7), 0.5).abs().max() < 1e-6


def test_a_soup_is_the_weighted_mean_and_can_be_loaded(models, tmp_path):
    merged = weights(soup(models, tmp_path / "soup", [1, 3, 0]))
    parts = [weights(model) for model in models[:2]]
    assert merged.keys() == parts[0].keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, (parts[0][name] + 3 * parts[1][name]) / 4)
    state = load_encoder(tmp_path / "soup").state_dict()
    assert torch.equal(
        state["backbone.embeddings.word_embeddings.weight"], merged["embeddings.word_embeddings.weight"]
    )


def test_a_soup_of_one_model_with_itself_is_the_model(models, tmp_path):
    merged, model = weights(soup([models[0]] * 3, tmp_path / "soup")), weights(models[0])
    assert all(torch.equal(merged[name], weight) for name, weight in model.items())


def test_slerp_goes_from_one_model_to_the_other(models, tmp_path):
    first, second = (weights(model) for model in models[:2])
    for t, end in ((0.0, first), (1.0, second)):
        found = weights(slerp(models[0], models[1], tmp_path / str(t), t))
        assert all(torch.equal(found[name], weight) for name, weight in end.items())
    half = weights(slerp(models[0], models[1], tmp_path / "half"))
    for name, weight in half.items():
        torch.testing.assert_close(weight, slerp_tensors(first[name], second[name], 0.5).float())


def test_shards_are_read_and_low_precision_is_kept(models, tmp_path):
    low = {name: weight.bfloat16() for name, weight in weights(models[0]).items()}
    sharded = tmp_path / "sharded"
    shutil.copytree(models[0], sharded)
    (sharded / "model.safetensors").unlink()
    names = sorted(low)
    for number, some in enumerate((names[:5], names[5:])):
        save_file(
            {name: low[name] for name in some}, sharded / f"model-{number}.safetensors", {"format": "pt"}
        )
    (sharded / "model.safetensors.index.json").write_text("{}")
    (sharded / "README.md").write_text("of the first model alone")
    merged = weights(soup([sharded, models[1]], tmp_path / "soup"))
    second = weights(models[1])
    for name, weight in merged.items():
        assert torch.equal(weight, ((low[name].double() + second[name].double()) / 2).bfloat16())
    assert sorted(path.name for path in (tmp_path / "soup").glob("model*")) == ["model.safetensors"]
    assert not (tmp_path / "soup" / "README.md").exists()


@pytest.fixture
def pooled(models, tmp_path):
    """Return models with a pooler latent_attention of two heads each, and one of four heads."""
    made = []
    for number, (model, heads) in enumerate(((models[0], 2), (models[1], 2), (models[1], 4))):
        encoder = load_encoder(model, pooling="latent_attention", latents=(5, heads))
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for weight in encoder.latent_attention.parameters():
                weight += torch.randn(weight.shape, generator=generator)
        save_encoder(encoder, tmp_path / f"pooled-{number}", model, Prompts(), 24)
        made.append(tmp_path / f"pooled-{number}")
    return made


def test_a_pooler_is_merged_with_its_backbone(pooled, tmp_path):
    parts = [LatentAttention.read(model / LATENT_ATTENTION_FOLDER).state_dict() for model in pooled[:2]]
    merged = load_encoder(soup(pooled[:2], tmp_path / "soup")).latent_attention.state_dict()
    assert merged.keys() == parts[0].keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, (parts[0][name] + parts[1][name]) / 2)
    half = load_encoder(slerp(*pooled[:2], tmp_path / "half")).latent_attention.state_dict()
    for name, weight in half.items():
        torch.testing.assert_close(weight, slerp_tensors(parts[0][name], parts[1][name], 0.5).float())


def test_poolers_that_differ_are_refused(models, pooled, tmp_path):
    for others in ([pooled[0], pooled[2]], [pooled[0], models[1]], [models[0], pooled[1]]):
        with pytest.raises(ModelError, match=r"1_LatentAttention\.num_heads"):
            soup(others, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_refuses_what_cannot_be_merged(models, tmp_path):
    for arguments in ((models[:1],), (models[:2], [1.0]), (models[:2], [0, 0]), (models[:2], [1, -1])):
        with pytest.raises(ModelError, match=r"soup|mean"):
            soup(arguments[0], tmp_path / "out", *arguments[1:])
    with pytest.raises(ModelError, match="0 to 1"):
        slerp(models[0], models[1], tmp_path / "out", 1.5)
    with pytest.raises(ModelError, match="there already"):
        soup(models, tmp_path)
    other = build_model(tmp_path / "other", positions=32)
    with pytest.raises(ModelError, match=r"position_embeddings.*\[32, 32\]"):
        soup([models[0], other], tmp_path / "out")
    config = json.loads((other / "config.json").read_text()) | {"num_attention_heads": 2}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="num_attention_heads"):
        soup([models[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
