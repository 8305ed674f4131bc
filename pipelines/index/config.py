"""What a recipe may say of the index."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RESCORE_MULTIPLIER = 4


class IndexConfig(BaseModel):
    """How a release holds the documents' embeddings, and how it searches them.

    `flat` of all components is searched exactly. Of every other index memory holds codes alone: the nearest by code are
    candidates, which are scored again and the best of them returned. What that loses is measured while the index is
    built, as its recall against the exact search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["flat", "int8", "binary"] = "flat"
    """What memory holds of a component. flat: four bytes. int8: one, by the range of each component over the documents;
    they are multiplied with the query as it is. binary: one bit, whether it is above zero: a thirty-second of flat; the
    bits of the query are compared by Hamming distance. Codes are searched by faiss, on processors."""
    dimension: int | None = Field(default=None, ge=1)
    """Components that memory holds, the first ones, brought back to unit length: for models trained with the matryoshka
    loss. Null: all."""
    rescore_multiplier: int = Field(default=RESCORE_MULTIPLIER, ge=1)
    """Candidates for each document asked for: more find more, and cost more. 1: the order changes, the documents do
    not."""
    rescore_with: Literal["embeddings", "codes"] = "embeddings"
    """What candidates are scored with. embeddings: the whole ones, as encode stored them (float16), in a file of the
    release that is mapped into memory and read where candidates lie; the scores are those of the exact search. codes:
    what memory holds, multiplied with the query as it is; the release has no such file."""
    recall_sample: int = Field(default=200, ge=0)
    """Queries of the evaluated split that are searched exactly as well, to state the recall of an index that is not
    exact; documents in their place where there is no query. 0: none."""

    @model_validator(mode="after")
    def _something_is_rescored(self) -> "IndexConfig":
        changed = {
            "rescore_multiplier": self.rescore_multiplier != RESCORE_MULTIPLIER,
            "rescore_with": self.rescore_with != "embeddings",
        }
        if self.is_exact and any(changed.values()):
            name = next(name for name, is_set in changed.items() if is_set)
            raise ValueError(
                f"{name} ({getattr(self, name)}): index.kind flat of all components is exact and scores nothing again: "
                "remove it, or choose kind int8 or binary, or a dimension"
            )
        return self

    @property
    def is_exact(self) -> bool:
        """Whether every document is scored with its whole embedding."""
        return self.kind == "flat" and self.dimension is None
