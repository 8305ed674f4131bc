"""A run: the stages in order on one screen, each taken from the store or computed."""

from cluster.errors import UserError
from cluster.session import Session
from pipelines.encode.pipeline import encode_step, quantize_step
from pipelines.evaluate.pipeline import evaluate_step
from pipelines.index.pipeline import index_step
from pipelines.ingest.pipeline import ingest_step
from pipelines.mine.pipeline import Shared, mine_steps
from pipelines.model import Model
from pipelines.recipe import Recipe
from pipelines.report.pipeline import audit_step
from pipelines.search.config import SearchConfig
from pipelines.search.lexical import lexical_step
from pipelines.search.pipeline import search_step
from pipelines.steps import Step
from pipelines.train.pipeline import num_workers, plan_step, train_step

TARGETS = {
    "encode": ("base_embeddings",),
    "mine": ("groups", "audit"),
    "train": ("trained",),
    "evaluate": ("metrics",),
    "index": ("index",),
    "run": ("groups", "audit", "metrics", "index"),
}
"""What a command is for -> the steps it must end with."""


def plan(recipe: Recipe, session: Session) -> dict[str, Step]:
    """Return the steps of a recipe by name, in order; the data and model files are hashed, nothing is computed.

    Args:
        recipe: The run.
        session: Asked for the dtype that the machines of a role multiply fastest.
    """
    mine, encode, held_out = recipe.mine, recipe.encode, recipe.evaluate.split
    model = Model.resolve(recipe.model, session)
    data = ingest_step(recipe.data)
    if recipe.data.kind == "texts":
        return {"data": data, **_corpus_alone(recipe, data, model)}

    steps: dict[str, Step] = {"data": data}
    splits = (mine.split, held_out)
    steps |= mine_steps(mine, Shared(data, model, encode, splits, session))
    teachers = {name: steps[f"{name}_candidates"] for name in mine.read_by_select}
    steps["audit"] = audit_step(data, teachers, {mine.select.filter.method: steps["groups"]}, recipe.audit)
    guides = {name: steps[key] for name in mine.teachers if (key := f"{name}_embeddings") in steps}
    steps["order"] = plan_step(data, steps["groups"], model, recipe.train, guides)
    steps["trained"] = train_step(steps["order"], model, recipe.train, num_workers(session))
    tuned = model.trained(steps["trained"])
    evaluation = SearchConfig(retrieval_depth=recipe.evaluate.retrieval_depth, backend=mine.search.backend)
    steps["base_embeddings"] = encode_step(data, model, splits, encode)
    steps["base_ranking"] = search_step(data, steps["base_embeddings"], held_out, evaluation)
    steps["tuned_embeddings"] = encode_step(data, tuned, (held_out,), encode)
    steps["tuned_ranking"] = search_step(data, steps["tuned_embeddings"], held_out, evaluation)
    rankings = {"base": steps["base_ranking"], "tuned": steps["tuned_ranking"]}
    for baseline in recipe.evaluate.baselines:
        steps[f"{baseline}_ranking"] = rankings[baseline] = lexical_step(
            data, held_out, evaluation.retrieval_depth
        )
    steps["metrics"] = evaluate_step(data, rankings, recipe.evaluate)
    steps["index"] = index_step(data, steps["tuned_embeddings"], tuned, recipe.index)
    return steps


def _corpus_alone(recipe: Recipe, data: Step, model: Model) -> dict[str, Step]:
    """Return what can be made of texts without queries: their embeddings."""
    embeddings = encode_step(data, model, (), recipe.encode)
    if recipe.encode.precision == recipe.encode.float_precision:
        return {"base_embeddings": embeddings}
    coded = quantize_step(embeddings, recipe.encode.precision)
    return {"float_embeddings": embeddings, "base_embeddings": coded}


def targets(command: str, steps: dict[str, Step]) -> tuple[str, ...]:
    """Return the steps that a command must end with.

    Raises:
        UserError: The recipe has no such step.
    """
    missing = [name for name in TARGETS[command] if name not in steps]
    if missing:
        raise UserError(
            f"a corpus without queries cannot be taken as far as {missing[0]}",
            where="data.kind",
            got="texts",
            expected="data with labelled queries: docstrings, beir or pairs",
            fix="stope encode embeds a corpus alone",
        )
    return TARGETS[command]
