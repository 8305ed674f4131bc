"""A model's modules without its weights."""

from pathlib import Path
from typing import Any

from models.encoder import Encoder
from models.layout import read_config
from models.moe.files import model_class
from models.projection import Projection
from models.sentence_modules import ProjectionSettings, read_modules
from models.silence import silence


def weightless_encoder(directory: Path, pooling: str, trusted: bool = False) -> Encoder:
    """Return a model's modules without weights, on torch's device `meta`: their names and shapes alone.

    Args:
        directory: As ``resolve_model`` returns it.
        pooling: Name of the pooler.
        trusted: Whether code that the directory brings may run.
    """
    import torch

    loader = model_class(read_config(directory), directory)
    from transformers import AutoConfig, AutoModel

    with silence(), torch.device("meta"):
        config = AutoConfig.from_pretrained(str(directory), trust_remote_code=trusted, local_files_only=True)
        made: Any = (
            AutoModel.from_config(config, trust_remote_code=trusted)
            if loader is AutoModel
            else loader(config)
        )
        if getattr(made, "pooler", None) is not None:
            # As where it is loaded: no optimizer touches it.
            made.pooler.requires_grad_(False)
        projections = [
            Projection(ProjectionSettings.read(directory / folder)).to("meta")
            for folder in read_modules(directory).projections
        ]
        return Encoder(made, pooling, projections=projections)
