"""A run: the stages in order on one screen, each taken from the store or computed."""

from cluster.session import Session
from pipelines.encode.pipeline import encode_step
from pipelines.evaluate.pipeline import evaluate_step
from pipelines.index.pipeline import index_step
from pipelines.ingest.pipeline import ingest_step
from pipelines.model import Model
from pipelines.recipe import Recipe
from pipelines.search.config import SearchConfig
from pipelines.search.lexical import lexical_step
from pipelines.search.pipeline import search_step
from pipelines.select.pipeline import select_step
from pipelines.steps import Step
from pipelines.train.pipeline import num_workers, plan_step, train_step

TARGETS = {
    "encode": ("embeddings",),
    "mine": ("groups",),
    "train": ("trained",),
    "evaluate": ("metrics",),
    "index": ("index",),
    "run": ("groups", "metrics", "index"),
}
"""What a command is for -> the steps it must end with."""


def plan(recipe: Recipe, session: Session) -> dict[str, Step]:
    """Return the steps of a recipe by name, in order; the data and model files are hashed, nothing is computed.

    Args:
        recipe: The run.
        session: Asked for the dtype that the machines of the `encode` role multiply fastest.
    """
    mine, held_out = recipe.mine, recipe.evaluate.split
    model = Model.resolve(recipe.model, session)
    teacher = Model.resolve(mine.teacher, session) if mine.teacher else model
    evaluation = SearchConfig(retrieval_depth=recipe.evaluate.retrieval_depth, backend=mine.search.backend)

    steps: dict[str, Step] = {}
    steps["data"] = data = ingest_step(recipe.data)
    steps["embeddings"] = encode_step(data, teacher, (mine.split, held_out), recipe.encode)
    steps["candidates"] = search_step(data, steps["embeddings"], mine.split, mine.search)
    steps["groups"] = select_step(data, steps["candidates"], mine.select)
    steps["order"] = plan_step(data, steps["groups"], model, recipe.train)
    steps["trained"] = train_step(steps["order"], model, recipe.train, num_workers(session))
    tuned = model.trained(steps["trained"])
    steps["base_embeddings"] = encode_step(data, model, (mine.split, held_out), recipe.encode)
    steps["base_ranking"] = search_step(data, steps["base_embeddings"], held_out, evaluation)
    steps["tuned_embeddings"] = encode_step(data, tuned, (held_out,), recipe.encode)
    steps["tuned_ranking"] = search_step(data, steps["tuned_embeddings"], held_out, evaluation)
    rankings = {"base": steps["base_ranking"], "tuned": steps["tuned_ranking"]}
    for baseline in recipe.evaluate.baselines:
        steps[f"{baseline}_ranking"] = rankings[baseline] = lexical_step(
            data, held_out, evaluation.retrieval_depth
        )
    steps["metrics"] = evaluate_step(data, rankings, recipe.evaluate)
    steps["index"] = index_step(data, steps["tuned_embeddings"], tuned, recipe.index)
    return steps
