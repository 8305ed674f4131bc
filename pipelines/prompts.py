"""What a recipe may say of prompts: prefixes, instructions by task, examples."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.prompts import TEMPLATE, Prompts, instructed, split_template

RESERVED_PROMPTS = ("query", "document", "passage", "corpus")
"""Names under which a model's directory holds the prompts that are no task's."""


class ExampleConfig(BaseModel):
    """A query and a document that answers it, shown to the model before each query."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = Field(min_length=1)
    """Its first 64 tokens are shown."""
    document: str = Field(min_length=1)
    """Its first 96 tokens are shown."""
    task: str = ""
    """The task (column `task`) whose queries it is shown to. Empty: those that no example names."""


class PromptsConfig(BaseModel):
    """Text put before every query and every document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str = ""
    """Prefix of a query; its tokens are attended to but not pooled. Empty: none."""
    document: str = ""
    """Prefix of a document. Empty: none."""
    instructions: dict[str, str] = {}
    """Task (column `task` of the queries) -> what its queries ask for, in words; put before them as `template` says.
    Queries of a task that is not named here get `query`. Empty: none."""
    template: str = TEMPLATE
    """How an instruction and a query are put together, or `{task}: {query}`. `{task}` is the instruction; what stands
    behind `{query}` ends every query, however short the query is cut."""
    few_shot: tuple[ExampleConfig, ...] = ()
    """Examples put before every query, also where the model is served; max_query_tokens must leave room for them.
    A training with train.few_shot draws its own in their place. Empty: none."""

    @model_validator(mode="after")
    def _template_holds_its_parts(self) -> "PromptsConfig":
        split_template(self.template)
        if self.template != TEMPLATE and not self.instructions:
            raise ValueError(
                "prompts.template says how instructions are put before queries, and there are none: write "
                "prompts.instructions, or prompts.query for a prefix of all queries"
            )
        named = {"instructions": [*self.instructions], "few_shot": [each.task for each in self.few_shot]}
        for key, tasks in named.items():
            taken = [task for task in tasks if task in RESERVED_PROMPTS]
            if taken:
                raise ValueError(f"prompts.{key}: a task cannot be called {taken[0]!r}; use prompts.query")
        return self

    def without_examples(self) -> Prompts:
        """Return what stands before texts, examples apart."""
        tasks = instructed(self.template, self.instructions) if self.instructions else {}
        return Prompts(query=self.query, document=self.document, **tasks)


def resolve_prompts(
    config: PromptsConfig, directory: Path, max_query_tokens: int, max_document_tokens: int
) -> Prompts:
    """Return the prompts that a recipe asks for; the tokenizer is loaded where there are examples to be cut.

    Args:
        config: As the recipe says.
        directory: The model's.
        max_query_tokens: Queries are cut here, examples and instruction counted.
        max_document_tokens: Documents are cut here.

    Raises:
        ModelError: The examples leave no room for a query.
    """
    prompts = config.without_examples()
    if not config.few_shot:
        return prompts
    from models.few_shot import Example, with_examples
    from models.tokenization import TextTokenizer

    examples = [Example(each.query, each.document, each.task) for each in config.few_shot]
    tokenizer = TextTokenizer.load(directory, prompts, max_query_tokens, max_document_tokens)
    return with_examples(prompts, examples, tokenizer.uncut, max_query_tokens)
