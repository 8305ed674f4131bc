"""How fast one device embeds, as a share of its matrix rate, beside sentence-transformers where that is installed.

    python -m tests.bench.gpu_inference --json result.json
    python -m tests.bench.gpu_inference --tiny          # seconds on a processor: that it runs, not how fast

Needs torch and transformers alone. Two models of random weights: an encoder of 335M parameters, at 512 tokens and at
the lengths of paragraphs, and a bidirectional decoder shaped as a 7B one at 512. Ours: texts (the encoder) or token ids
(the decoder) in host memory to embeddings in host memory, and the share of the measured bfloat16 rate of
2 x non-embedding parameters x real tokens. sentence-transformers reads the same directory and the same texts, as it
comes and in bfloat16.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, MistralConfig, MistralModel, PreTrainedTokenizerFast

from models.checkpoint import load_encoder, save_encoder
from models.encoder import Encoder
from models.inference import embed
from models.precision import resolve_dtype
from models.prompts import Prompts
from models.tokenization import TextTokenizer
from tests.bench.gpu_mining import SHAPES, Clock, machine, random_tokens
from tests.bench.gpu_training import MISTRAL_7B, TINY_MISTRAL, peak_flops

VOCABULARY = 30_000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MAX_TOKENS = 512


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        encoder: A name in SHAPES.
        decoder: Configuration of a Mistral.
        texts: Of 512 tokens; four times as many of mixed lengths.
        decoder_texts: Of 512 tokens.
        token_budget: Of one forward pass.
        product: Rows and columns of the matrices whose product is the peak.
        rounds: Repetitions; medians are shown.
    """

    encoder: str = "bert-large"
    decoder: Any = None
    texts: int = 2048
    decoder_texts: int = 256
    token_budget: int = 65_536
    product: int = 8192
    rounds: int = 5


def save_random_encoder(shape: str, directory: Path) -> None:
    """Write an encoder of random weights, and a tokenizer of one token a word."""
    words = {**{name: i for i, name in enumerate(SPECIAL)}, **{f"t{i}": i for i in range(4, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    tokenizer_files = directory / "tokenizer"
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(str(tokenizer_files))
    torch.manual_seed(0)
    backbone = BertModel(BertConfig(**SHAPES[shape], vocab_size=VOCABULARY), add_pooling_layer=False)
    save_encoder(Encoder(backbone), directory / "model", tokenizer_files, Prompts(), MAX_TOKENS)


def random_texts(lengths: np.ndarray) -> list[str]:
    """Return texts of so many tokens, the two special ones counted."""
    rng = np.random.default_rng(0)
    return [" ".join(f"t{i}" for i in rng.integers(4, VOCABULARY, length - 2)) for length in lengths]


def paragraph_lengths(count: int) -> np.ndarray:
    """Return lengths of a median of 140 and a tail up to the limit, as encyclopedia paragraphs have them."""
    drawn = np.random.default_rng(0).lognormal(np.log(140), 0.5, count)
    return np.clip(drawn, 16, MAX_TOKENS).astype(np.int64)


def weights_of(backbone: Any) -> int:
    """Return the parameters outside of the embeddings."""
    return sum(parameter.numel() for name, parameter in backbone.named_parameters() if "embed" not in name)


def peers(directory: Path, device: str) -> dict[str, Any]:
    """Return sentence-transformers as it comes and in bfloat16; nothing where it is not installed."""
    if find_spec("sentence_transformers") is None:
        return {}
    from sentence_transformers import SentenceTransformer

    return {
        dtype: SentenceTransformer(str(directory), device=device, model_kwargs={"dtype": dtype})
        for dtype in ("float32", "bfloat16")
    }


def encoder_rows(clock: Clock, sizes: Sizes, peak: float) -> list[dict[str, object]]:
    """Measure the encoder, texts in, embeddings out."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as folder:
        save_random_encoder(sizes.encoder, Path(folder))
        directory = Path(folder) / "model"
        encoder = load_encoder(directory, resolve_dtype("auto", clock.device), clock.device)
        tokenizer = TextTokenizer.load(directory, Prompts(), MAX_TOKENS, MAX_TOKENS)
        others = peers(directory, clock.device)
        lengths = {"512": np.full(sizes.texts, MAX_TOKENS), "16 to 512": paragraph_lengths(4 * sizes.texts)}
        for name, lengths_N in lengths.items():
            texts = random_texts(lengths_N)
            tokens = tokenizer.tokenize(texts, "document")
            assert len(tokens.ids) == lengths_N.sum()

            def whole(texts: list[str] = texts) -> object:
                return embed(encoder, tokenizer.tokenize(texts, "document"), sizes.token_budget)

            calls: dict[str, Callable[[], object]] = {
                "stope, texts in": whole,
                "stope, token ids in": lambda tokens=tokens: embed(encoder, tokens, sizes.token_budget),
            }
            for dtype, model in others.items():
                calls[f"sentence-transformers {dtype}"] = lambda model=model, texts=texts: model.encode(
                    texts, show_progress_bar=False
                )
            total = int(lengths_N.sum())
            for call_name, call in calls.items():
                rate = total / clock.median(call)
                share = 2.0 * weights_of(encoder.backbone) * rate / peak
                rows.append({"model": sizes.encoder, "tokens a text": name, "what": call_name,
                             "tokens_per_s": rate, "of_peak": share})  # fmt: skip
    return rows


def decoder_row(clock: Clock, sizes: Sizes, peak: float) -> dict[str, object]:
    """Measure the decoder, token ids in, embeddings out."""
    torch.manual_seed(0)
    config = MistralConfig(**sizes.decoder, sliding_window=None, use_cache=False)
    config.is_causal = False
    with torch.device(clock.device):
        torch.set_default_dtype(torch.bfloat16)
        try:
            backbone = MistralModel(config)
        finally:
            torch.set_default_dtype(torch.float32)
    encoder = Encoder(backbone).eval()
    tokens = random_tokens(np.full(sizes.decoder_texts, MAX_TOKENS))
    tokens.ids[:] %= config.vocab_size
    rate = len(tokens.ids) / clock.median(lambda: embed(encoder, tokens, sizes.token_budget // 4))
    share = 2.0 * weights_of(backbone) * rate / peak
    name = f"decoder, {weights_of(backbone) / 1e9:.1f}B outside of embeddings"
    return {"model": name, "tokens a text": "512", "what": "stope, token ids in", "tokens_per_s": rate,
            "of_peak": share}  # fmt: skip


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    print(f"{result['machine']}; peak {result['peak'] / 1e12:.2f} TFLOP/s in bfloat16")
    print(f"\n{'':74} {'tokens/s':>12} {'of peak':>8} {'of ours':>8}")
    ours: dict[tuple[str, str], float] = {}
    for row in result["rows"]:
        first = ours.setdefault((row["model"], row["tokens a text"]), row["tokens_per_s"])
        name = f"{row['model']}, {row['tokens a text']} tokens, {row['what']}"
        print(
            f"  {name:72} {row['tokens_per_s']:12,.0f} {row['of_peak']:8.1%} {row['tokens_per_s'] / first:8.2f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small enough for a processor")
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = Sizes("tiny", TINY_MISTRAL, 8, 4, 4096, 512, 2) if args.tiny else Sizes(decoder=MISTRAL_7B)
    clock = Clock(device, sizes.rounds)
    peak = peak_flops(clock, sizes.product)
    rows = [*encoder_rows(clock, sizes, peak), decoder_row(clock, sizes, peak)]
    result = {"machine": machine(device), "peak": peak, "rows": rows}
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
