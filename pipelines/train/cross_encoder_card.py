"""The README of a trained cross-encoder: what it was made of and how it is loaded; no path of the machine."""

import yaml

from pipelines.train.card import HERE, data_lines, public_name
from pipelines.train.config import UNFELT
from pipelines.train.cross_encoder import LocatedCrossEncoder
from pipelines.train.cross_encoder_config import REFUSED
from pipelines.train.task import TrainTask

_CARD = """\
---
{front}---

# {name}

A cross-encoder: {base}, trained by Stope to tell a query's positive from mined hard negatives. It reads query and
document together; the score is a logit, larger for a better document.

| | |
|---|---|
| base model | {base} |
{data}
| training | {rows:,} rows in {steps:,} steps |
| texts were cut at | {query_tokens} tokens (query), {document_tokens} tokens (document), special tokens not counted |

## Use

With sentence-transformers, whose `predict` puts the logit through a sigmoid unless it is told otherwise:

```python
from sentence_transformers import CrossEncoder

model = CrossEncoder("{here}")
pairs = [("a question", "a text that answers it"), ("a question", "another text")]
scores = model.predict(pairs)
```

With transformers alone:

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{here}")
model = AutoModelForSequenceClassification.from_pretrained("{here}", dtype=torch.float32).eval()
batch = tokenizer(*zip(*pairs), padding=True, truncation="only_second", return_tensors="pt")
with torch.no_grad():
    logits = model(**batch).logits[:, 0]
```

As a teacher of negatives and of scores, in a recipe of Stope:

```yaml
mine:
  teachers:
    dense: {{kind: dense}}
    judge:
      kind: reranker
      over: dense
      model: {{source: {here}, max_query_tokens: {query_tokens}, max_document_tokens: {document_tokens}}}
```

## Metrics

They are measured after the training, so they are not here: `stope report RUN` shows them, and the artifact of the
stage `evaluate` that was made with `{key}` holds them as a table.

## Settings

```yaml
{settings}```
"""


def cross_encoder_card(task: TrainTask) -> str:
    """Return the text of README.md: what was trained, on what, and how."""
    model, plan = task.model, task.plan.manifest
    assert isinstance(model, LocatedCrossEncoder)
    base, on_hub = public_name(model.base)
    front: dict[str, object] = {"library_name": "sentence-transformers", "pipeline_tag": "text-ranking"}
    if on_hub:
        front["base_model"] = base
    # What says nothing of it; DeepSpeed's own settings, and where the model began, which may name folders.
    settings = task.config.model_dump(mode="json", exclude=UNFELT | {"deepspeed", *REFUSED})
    settings["cross_encoder"]["source"] = base
    return _CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        name=task.writer.label,
        base=base,
        data="\n".join(data_lines(task.plan)),
        rows=plan.summary["rows"],
        steps=plan.summary["steps"],
        query_tokens=model.rendering.max_query_tokens,
        document_tokens=model.rendering.max_document_tokens,
        here=HERE,
        key=task.writer.key,
        settings=yaml.safe_dump({"train": settings}, sort_keys=False),
    )
