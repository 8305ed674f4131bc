"""Models with experts written, read by us, by transformers and by sentence-transformers, and refused where torn."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from models.checkpoint import load_encoder, save_encoder, verify_export
from models.errors import ModelError
from models.fused import is_fusible
from models.inference import embed
from models.layout import describe_model, model_digest
from models.moe.files import MODELLING_FILE, is_own_modelling_file, modelling_source
from models.moe.modeling import MOE_MODELS
from models.moe.upcycle import Upcycling, moe_blocks, upcycle
from models.prompts import Prompts
from models.tokenization import TextTokenizer
from tests.unit.models.conftest import SENTENCES, build_model
from tests.unit.models.moe.tiny_backbones import FAMILIES, make_encoder, make_texts


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def written(dense, tmp_path_factory):
    """A trained-looking model with experts in the second layer, its encoder and its directory."""
    encoder = load_encoder(dense)
    upcycle(encoder, Upcycling(layers=(-1,), where="ffn", num_experts=3), seed=0)
    stir(encoder)
    directory = tmp_path_factory.mktemp("moe") / "model"
    save_encoder(encoder, directory, dense, Prompts(query="query: "), 24)
    return encoder, directory


def stir(encoder):
    generator = torch.Generator().manual_seed(0)
    for block in moe_blocks(encoder):
        for parameter in block.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def copied(written, tmp_path):
    return shutil.copytree(written[1], tmp_path / "copy")


def test_comes_back_exactly_without_remote_code(written):
    encoder, directory = written
    loaded = load_encoder(directory)
    assert type(loaded.backbone) is MOE_MODELS["bert"]
    before, after = encoder.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    tokens = TextTokenizer.load(directory, Prompts(), 24, 24).tokenize(SENTENCES, "query")
    assert is_fusible(loaded.backbone) and is_fusible(encoder.backbone)
    np.testing.assert_array_equal(embed(loaded, tokens), embed(encoder, tokens))
    again = load_encoder(directory, "bfloat16")
    assert np.einsum("nd,nd->n", embed(again, tokens), embed(encoder, tokens)).min() > 0.98


def test_sentence_transformers_embeds_the_same(written):
    assert verify_export(written[1], SENTENCES) > 0.9999


def test_transformers_loads_it_from_the_file_beside_it(written):
    from transformers import AutoModel

    encoder, directory = written
    ids_BT, mask_BT, _ = make_texts()
    loaded = AutoModel.from_pretrained(str(directory), trust_remote_code=True).eval()
    assert type(loaded).__module__.startswith("transformers_modules.")
    with torch.no_grad():
        out = loaded(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        expected = encoder.backbone(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
    assert torch.equal(out, expected)
    # A dense model is still loaded by its own class in this process.
    assert type(AutoModel.from_config(make_encoder().backbone.config)).__module__.startswith("transformers.")


@pytest.mark.parametrize("where", ["up", "down", "ffn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_and_is_refused_by_the_dense_class(family, where, tmp_path):
    encoder, texts = make_encoder(family), make_texts()
    upcycle(encoder, Upcycling(layers=(1, 2), where=where, num_experts=3), seed=0)
    stir(encoder)
    encoder.backbone.save_pretrained(str(tmp_path))
    loaded = load_encoder(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(*texts), encoder(*texts))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["moe"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"cannot load|do not fit"):
        load_encoder(tmp_path)


def test_the_modelling_file_stands_alone(written):
    source = modelling_source()
    assert "models." not in "".join(line for line in source.splitlines() if "import" in line)
    names = [
        line.split("(")[0].split(":")[0] for line in source.splitlines() if line[:6] in ("class ", "def ma")
    ]
    assert len(names) == len(set(names)) and "class MoeBertModel" in names
    assert is_own_modelling_file(written[1])
    assert (written[1] / MODELLING_FILE).read_text() == source


def test_another_modelling_file_is_not_run(copied):
    (copied / MODELLING_FILE).write_text(f"raise SystemExit('ran')\n{modelling_source()}")
    assert not is_own_modelling_file(copied)
    load_encoder(copied)
    with pytest.raises((ValueError, OSError, RuntimeError)):
        verify_export(copied, SENTENCES[:2])


def test_idle_experts_cost_nothing_and_the_digest_knows_the_router(dense, written, copied):
    plain, moe = describe_model(dense), describe_model(written[1])
    encoder = written[0]
    stacked = sum(p.numel() for p in encoder.backbone.parameters() if p.ndim == 3)
    others = sum(
        p.numel() for name, p in encoder.backbone.named_parameters() if p.ndim < 3 and "embed" not in name
    )
    assert moe.num_parameters == stacked // 3 + others
    assert 0 < moe.num_parameters - plain.num_parameters < 0.05 * plain.num_parameters
    config = json.loads((copied / "config.json").read_text())
    config["moe"]["router"] = "switch"
    (copied / "config.json").write_text(json.dumps(config))
    assert model_digest(copied) != model_digest(written[1])
    assert moe_blocks(load_encoder(copied))[0].kind == "switch"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 4}, r"cannot load|do not fit the config"),
        ({"layers": [0, 1]}, r"cannot load|do not fit the config"),
        ({"layers": [0]}, r"cannot load|do not fit the config|left over"),
        ({"where": "up"}, r"cannot load|do not fit the config"),
        ({"layers": [2]}, r"config.json(.|\n)*no such layer|no such layer"),
        ({"experts_per_token": 5}, r"config.json: moe.experts_per_token"),
        ({"router": "other"}, r"config.json: moe.router"),
        ({"sparsity": 1}, r"does not say which experts(.|\n)*num_experts"),
    ],
)
def test_refuses_a_config_that_does_not_fit(copied, change, message):
    config = json.loads((copied / "config.json").read_text())
    config["moe"] |= change
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        load_encoder(copied)


def test_refuses_an_architecture_that_is_not_known(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    with pytest.raises(ModelError, match=r"got: electra(.|\n)*FAMILIES"):
        load_encoder(copied)


def test_refuses_weights_that_are_missing_or_left_over(copied):
    path = copied / "model.safetensors"
    weights = load_file(path)
    router = "encoder.layer.1.intermediate.router.weight"
    save_file({k: v for k, v in weights.items() if k != router}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"1 absent(.|\n)*{router}"):
        load_encoder(copied)
    save_file(
        weights | {"encoder.layer.0.intermediate.router.weight": torch.zeros(3, 32)},
        path,
        metadata={"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"left over(.|\n)*layer.0.intermediate.router"):
        load_encoder(copied)


def test_loads_in_silence(written, capfd):
    load_encoder(written[1])
    assert capfd.readouterr() == ("", "")
