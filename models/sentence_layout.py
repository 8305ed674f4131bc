"""The files beside a backbone's weights that make a directory a sentence-transformers model."""

import json
import shutil
import tempfile
from pathlib import Path

from models import latent_attention
from models.encoder import Encoder
from models.errors import ModelError
from models.projection import Projection
from models.prompt_length import is_miscounted, read_prompts_alone
from models.prompts import Prompts
from models.sentence_modules import LATENT_ATTENTION_FOLDER
from models.tokenizer_files import (
    complete_tokenizer,
    copy_tokenizer,
    load_backend,
    load_tokenizer,
    padding_token,
    write_backend,
)

POOLING_FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "last": "pooling_mode_lasttoken",
}
LATENT_ATTENTION_CLASS = "stope_latent_attention.LatentAttentionPooling"


def write_layout(
    encoder: Encoder, directory: Path, tokenizer_from: Path, prompts: Prompts, max_tokens: int
) -> None:
    """Write tokenizer, modules, pooling and prompts.

    Args:
        encoder: Its pooler and its dimension are told.
        directory: Holds the backbone already.
        tokenizer_from: The model's directory whose tokenizer files are copied.
        prompts: Stored under the names that sentence-transformers uses for queries and documents.
        max_tokens: Where sentence-transformers will cut texts.
    """
    copy_tokenizer(tokenizer_from, directory)
    include_prompt = _includes_prompt(prompts, encoder.pooling)
    if not include_prompt:
        _count_prompts_right(directory, prompts)
    complete_tokenizer(directory)
    kinds = ["Transformer", "Pooling", *["Dense"] * len(encoder.projections), "Normalize"]
    kinds = kinds if encoder.normalize else kinds[:-1]
    folders = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    types = [f"sentence_transformers.models.{kind}" for kind in kinds]
    if encoder.latent_attention is not None:
        folders[1], types[1] = LATENT_ATTENTION_FOLDER, LATENT_ATTENTION_CLASS
        _write_latent_attention(encoder.latent_attention, directory, include_prompt)
    else:
        pooling: dict[str, object] = {flag: name == encoder.pooling for name, flag in POOLING_FLAGS.items()}
        pooling |= {"word_embedding_dimension": encoder.width, "include_prompt": include_prompt}
        _write(directory / folders[1] / "config.json", pooling)
    for folder, projection in zip(folders[2:], encoder.projections, strict=False):
        assert isinstance(projection, Projection)
        projection.save(directory / folder)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(folders, types, strict=True))
    ]
    _write(directory / "modules.json", modules)
    # A tokenizer that is to lower-case does so by itself.
    _write(directory / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})
    _write(directory / "config_sentence_transformers.json", prompts.config())
    if encoder.normalize:
        (directory / folders[-1]).mkdir(exist_ok=True)


def check_prompts(directory: Path, prompts: Prompts, pooling: str) -> None:
    """Refuse what sentence-transformers could not read in a model trained from this one, or would read otherwise.

    Args:
        directory: Of the model to be trained.
        prompts: It is trained with them.
        pooling: Of the model to be trained.

    Raises:
        ModelError: A prompt ends in a space that the first word of a query takes, and transformers builds the
            tokenizers of this family in a way that cannot be told; or the tokenizer has nothing to pad with.
    """
    padding_token(directory, load_tokenizer(directory))
    if _includes_prompt(prompts, pooling) or pooling == "last":
        return
    with tempfile.TemporaryDirectory(prefix="stope-tokenizer-") as folder:
        if (directory / "config.json").is_file():
            shutil.copyfile(directory / "config.json", Path(folder) / "config.json")
        copy_tokenizer(directory, Path(folder))
        _count_prompts_right(Path(folder), prompts)
        backend = load_backend(Path(folder))
        wrong = [prompt for prompt in prompts.named.values() if is_miscounted(backend, prompt)]
    if wrong:
        raise ModelError(
            "sentence-transformers would leave the first word of a text out of the mean, with the prompt before it",
            str(directory),
            got=repr(wrong[0][-40:]),
            expected="a prompt whose last token is not merged with the text behind it",
            fix=r'end the prompt, or the template before {query}, in a line break ("\n") in place of a space',
        )


def _includes_prompt(prompts: Prompts, pooling: str) -> bool:
    # sentence-transformers would take the first token behind an excluded prompt for the cls token.
    return prompts.pooled or not prompts.named or pooling == "cls"


def is_own_pooler(directory: Path) -> bool:
    """Return whether the module file of a directory's pooler is the one that this version writes."""
    path = directory / f"{LATENT_ATTENTION_CLASS.partition('.')[0]}.py"
    return path.is_file() and path.read_text() == Path(latent_attention.__file__).read_text()


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")


def _write_latent_attention(
    pooler: latent_attention.LatentAttention, directory: Path, include_prompt: bool
) -> None:
    exported = latent_attention.LatentAttentionPooling(pooler, include_prompt)
    exported.save(str(directory / LATENT_ATTENTION_FOLDER))
    module = LATENT_ATTENTION_CLASS.partition(".")[0]
    shutil.copyfile(Path(latent_attention.__file__), directory / f"{module}.py")


def _count_prompts_right(directory: Path, prompts: Prompts) -> None:
    counting = read_prompts_alone(load_backend(directory), prompts.named.values())
    if counting is None:
        return
    # Where transformers takes another class all the same, check_prompts refuses the prompts.
    write_backend(counting, directory)
