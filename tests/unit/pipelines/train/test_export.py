"""An adapter alone: with the pooler that was trained beside it, it is the whole of the training."""

import pytest
import torch
from peft import PeftModel
from transformers import BertConfig, BertModel

from models.adapters import Lora, add_lora, merge_lora
from models.encoder import Encoder
from models.latent_attention import LatentAttention
from models.sentence_modules import LATENT_ATTENTION_FOLDER
from pipelines.train.export import write_adapter

LORA = Lora(rank=4, alpha=8.0, dropout=0.0, targets=("query",))


def make_encoder(pooling):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    return Encoder(BertModel(config, add_pooling_layer=False), pooling).eval()


@pytest.mark.parametrize("pooling", ["mean", "latent_attention"])
def test_an_adapter_and_its_pooler_make_the_trained_model(pooling, tmp_path):
    adapted, merged = make_encoder(pooling), make_encoder(pooling)
    add_lora(adapted.backbone, LORA, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    weights = {name: parameter.detach() for name, parameter in adapted.named_parameters()}
    merged.load_state_dict(merge_lora(weights, LORA))
    write_adapter(merged, weights, LORA, tmp_path / "adapter", base="org/model")

    pooler = tmp_path / "adapter" / LATENT_ATTENTION_FOLDER
    assert pooler.is_dir() is (pooling == "latent_attention")
    backbone = PeftModel.from_pretrained(make_encoder(pooling).backbone, str(tmp_path / "adapter"))
    latent = LatentAttention.read(pooler) if pooler.is_dir() else None
    loaded = Encoder(backbone, pooling, latent_attention=latent).eval()
    ids_BT = torch.arange(1, 21).reshape(2, 10)
    mask_BT = torch.ones_like(ids_BT)
    with torch.no_grad():
        expected_BD = adapted(ids_BT, mask_BT, mask_BT)
        assert not torch.allclose(make_encoder(pooling)(ids_BT, mask_BT, mask_BT), expected_BD, atol=1e-3)
        torch.testing.assert_close(loaded(ids_BT, mask_BT, mask_BT), expected_BD)
