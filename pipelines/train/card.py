"""The README of a trained model: what it was made of and how it is loaded. It names no path of the machine."""

from pathlib import Path

import pyarrow.compute as pc
import yaml

from cluster.artifacts import Artifact
from pipelines.located_model import LocatedModel
from pipelines.train.config import UNFELT
from pipelines.train.sources import input_name
from pipelines.train.task import TrainTask

HERE = "path/to/this/directory"
POOLED = {
    "mean": 'mask = batch["attention_mask"].unsqueeze(-1)\nembeddings = (states * mask).sum(1) / mask.sum(1)',
    "cls": "embeddings = states[:, 0]",
    "last": 'last = batch["attention_mask"].sum(1) - 1\nembeddings = states[torch.arange(len(last)), last]',
}
"""Pooler -> how it is written with transformers alone; one with weights is not."""

_CARD = """\
---
{front}---

# {name}

A text-embedding model: {base}, fine-tuned on mined hard negatives by Stope.

| | |
|---|---|
| base model | {base} |
{data}
| training | {rows:,} rows in {steps:,} steps |
| embedding | {dimension} dimensions, {pooling} pooling, unit length |
| texts are cut at | {query_tokens} tokens (query), {document_tokens} tokens (document) |
| prompt of a query | {query_prompt} |
| prompt of a document | {document_prompt} |
{instructions}{ending}
## Use

With sentence-transformers:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("{here}"{trust})
queries = model.encode_query(["a question"{suffix}])
documents = model.encode_document(["a text that answers it", "another text"])
scores = queries @ documents.T
```

{alone}## Metrics

They are measured after the training, so they are not here: `stope report RUN` shows them, and the artifact of the
stage `evaluate` that was made with `{key}` holds them as a table.

## Settings

```yaml
{settings}```
"""

_ALONE = """\
With transformers alone{caution}:

```python
import torch
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{here}", padding_side="right")
model = AutoModel.from_pretrained("{here}", dtype=torch.float32{trust}).eval()
texts = [{query_prefix!r} + "a question"{suffix}]
batch = tokenizer(texts, padding=True, truncation=True, max_length={query_tokens}, return_tensors="pt")
with torch.no_grad():
    states = model(**batch).last_hidden_state
{pooled}
embeddings = torch.nn.functional.normalize(embeddings, dim=-1)
```

"""

_ENDING = """\
| end of a query | `{suffix!r}`, which no library adds by itself: put it behind every query, as below |
"""


def model_card(task: TrainTask, dimension: int, own_code: bool = False, projected: bool = False) -> str:
    """Return the text of README.md.

    Args:
        task: What was trained, on what, and how.
        dimension: Of the embeddings.
        own_code: Whether the directory holds a modelling file, without which no library loads the model.
        projected: Whether pooled vectors pass linear layers, which transformers alone knows nothing of.
    """
    base, on_hub = public_name(task.model.location)
    front: dict[str, object] = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
    }
    if on_hub:
        front["base_model"] = base
    model = task.model
    assert isinstance(model, LocatedModel)
    prompts, plan = model.prompts, task.plan.manifest
    # DeepSpeed's own settings may name folders.
    settings = task.config.model_dump(mode="json", exclude=UNFELT | {"deepspeed"})
    named = bool(prompts.query or prompts.document)
    apart = named and model.pooling == "mean" and not prompts.pooled
    trust = ", trust_remote_code=True" if own_code else ""
    suffix = f" + {prompts.suffix!r}" if prompts.suffix else ""
    alone = ""
    if model.pooling in POOLED and not projected:
        alone = _ALONE.format(
            here=HERE,
            trust=trust,
            suffix=suffix,
            caution=" (the prompt is pooled here, and left out above)" if apart else "",
            query_prefix=prompts.query,
            query_tokens=model.max_query_tokens,
            pooled=POOLED[model.pooling],
        )
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=task.writer.label,
        base=base,
        data="\n".join(data_lines(task.plan)),
        rows=plan.summary["rows"],
        steps=plan.summary["steps"],
        dimension=dimension,
        pooling=model.pooling,
        query_tokens=model.max_query_tokens,
        document_tokens=model.max_document_tokens,
        query_prompt=f"`{prompts.query}`" if prompts.query else "none",
        document_prompt=f"`{prompts.document}`" if prompts.document else "none",
        instructions="".join(f"| prompt of a query, {name} | `{text!r}` |\n" for name, text in prompts.tasks),
        ending=_ENDING.format(suffix=prompts.suffix) if prompts.suffix else "",
        suffix=suffix,
        here=HERE,
        trust=trust,
        alone=alone,
        key=task.writer.key,
        settings=yaml.safe_dump({"train": settings}, sort_keys=False),
    )


def data_lines(plan: Artifact) -> list[str]:
    """Return a line of the card's table for every data set that is trained on, those of the most rows first."""
    counted = pc.value_counts(plan.read("order", columns=["dataset"]).column("dataset")).to_pylist()
    rows = {each["values"]: each["counts"] for each in counted}
    lines = []
    for name in sorted(rows, key=lambda name: (-rows[name], name)):
        data, groups = (
            plan.manifest.inputs[input_name(name, kind)].rpartition("/")[2] for kind in ("data", "groups")
        )
        heading = "data" if len(rows) == 1 else f"data, {name}"
        lines.append(f"| {heading} | `{data}`, groups `{groups}`, {rows[name]:,} rows |")
    return lines


def public_name(location: str) -> tuple[str, bool]:
    """Return what a model is called outside this machine, and whether it is an id of the hub.

    Args:
        location: A directory, a hub id or `package:<module>`; of a directory only its own name is told.
    """
    if location.startswith("package:"):
        return location.removeprefix("package:"), False
    path = Path(location).expanduser()
    return (path.resolve().name, False) if path.is_dir() else (location, True)
