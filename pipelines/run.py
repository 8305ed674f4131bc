"""A run: the stages in order on one screen, each taken from the store or computed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.errors import UserError
from cluster.session import Session
from pipelines.encode.pipeline import encode_step, quantize_step
from pipelines.evaluate.pipeline import evaluate_step
from pipelines.index.pipeline import index_step
from pipelines.ingest.pipeline import ingest_step
from pipelines.mine.config import MineConfig
from pipelines.mine.pipeline import Shared, mine_steps
from pipelines.model import Model
from pipelines.recipe import Recipe
from pipelines.report.pipeline import audit_step
from pipelines.score.config import ScoreConfig
from pipelines.score.pipeline import score_step
from pipelines.score.reranker import Reranker
from pipelines.search.config import SearchConfig
from pipelines.search.lexical import lexical_step
from pipelines.search.pipeline import search_step
from pipelines.steps import Step
from pipelines.train.beginning import check_beginning
from pipelines.train.cross_encoder import CrossEncoderModel, Trained
from pipelines.train.pipeline import plan_step, train_step
from pipelines.train.sources import Source

TARGETS = {
    "encode": ("base_embeddings",),
    "mine": ("groups", "audit"),
    "train": ("trained", "audit"),
    "evaluate": ("metrics", "audit"),
    "index": ("index", "audit"),
    "run": ("groups", "audit", "metrics", "index"),
}
"""What a command is for -> the steps it must end with."""
RERANKED: Mapping[str, Any] = {
    "differences": (("tuned", "base"), ("tuned", "untrained")),
    "over": {"untrained": "base", "tuned": "base"},
}
"""What is compared where a cross-encoder is trained: the first stage alone, ranked again before, and after."""


def plan(recipe: Recipe, session: Session) -> dict[str, Step]:
    """Return the steps of a recipe by name, in order; the data and model files are hashed, nothing is computed.

    Args:
        recipe: The run.
        session: Asked for the dtype that the machines of a role multiply fastest.
    """
    mine, encode, held_out = recipe.mine, recipe.encode, recipe.evaluate.split
    from models.checkpoint import resolve_model

    model = Model.resolve(recipe.model, session)
    data = ingest_step(recipe.data)
    if recipe.data.kind == "texts":
        return {"data": data, **_corpus_alone(recipe, data, model)}
    if not recipe.train.cross_encoder:
        trusted = recipe.model.trust_remote_code
        check_beginning(resolve_model(recipe.model.source, trusted), recipe.train, model.pooling, trusted)

    steps: dict[str, Step] = {"data": data}
    splits, tuned = (mine.split, held_out), model
    for number in range(1, recipe.rounds + 1):
        made = one_round(recipe, Shared(data, tuned, encode, splits, session))
        prefix = "" if number == recipe.rounds else f"round{number}."
        steps |= {f"{prefix}{name}": step for name, step in made.items()}
        tuned = model.trained(made["trained"])
    evaluation = SearchConfig(retrieval_depth=recipe.evaluate.retrieval_depth, backend=mine.search.backend)
    steps["base_embeddings"] = encode_step(data, model, splits, encode)
    steps["base_ranking"] = search_step(data, steps["base_embeddings"], held_out, evaluation)
    if recipe.train.cross_encoder:
        steps |= reranking(recipe, steps, session)
    else:
        steps["tuned_embeddings"] = encode_step(data, tuned, (held_out,), encode)
        steps["tuned_ranking"] = search_step(data, steps["tuned_embeddings"], held_out, evaluation)
    for baseline in recipe.evaluate.baselines:
        steps[f"{baseline}_ranking"] = lexical_step(data, held_out, evaluation.retrieval_depth)
    names = ("base", "untrained", "tuned", *recipe.evaluate.baselines)
    rankings = {name: steps[f"{name}_ranking"] for name in names if f"{name}_ranking" in steps}
    compared = RERANKED if recipe.train.cross_encoder else {}
    steps["metrics"] = evaluate_step(data, rankings, recipe.evaluate, **compared)
    if "tuned_embeddings" in steps:
        steps["index"] = index_step(data, steps["tuned_embeddings"], tuned, recipe.index)
    return steps


def reranking(recipe: Recipe, steps: Mapping[str, Step], session: Session) -> dict[str, Step]:
    """Return the steps that rank the first stage's documents again: the cross-encoder as it began, and as trained."""
    reads = recipe.reranker
    assert reads is not None
    scoring, held_out = ScoreConfig(depth=recipe.evaluate.rerank_depth), recipe.evaluate.split

    def reranked(made_by: Step) -> Step:
        reranker = Reranker.of_step(reads, made_by, session)
        return score_step(steps["data"], steps["base_ranking"], reranker, held_out, scoring)

    return {
        "untrained_ranking": reranked(steps["untrained"]),
        "tuned_ranking": reranked(steps["trained"]),
    }


def one_round(recipe: Recipe, shared: Shared) -> dict[str, Step]:
    """Return the steps that mine with a model, and train it or a cross-encoder on what was found, by name."""
    asked = recipe.train.cross_encoder
    trained: Trained = shared.model
    if asked:
        trained = CrossEncoderModel.begin(asked, recipe.model.source, recipe.train.seed, shared.session)
    steps = mining(recipe, shared, trained)

    def renew(model: Model) -> dict[str, Step]:
        return mining(recipe, replace(shared, model=model), model)

    steps["trained"] = train_step(steps["order"], trained, recipe.train, renew)
    return steps


def mining(recipe: Recipe, shared: Shared, trained: Trained) -> dict[str, Step]:
    """Return the steps that mine with a model, by name; the last one, `order`, plans a training on what they find.

    Args:
        recipe: The run.
        shared: Holds the model that mines.
        trained: What the training starts from.
    """
    data, model, session = shared.data, shared.model, shared.session
    steps = mine_steps(recipe.mine, shared)
    teachers = {name: steps[f"{name}_candidates"] for name in recipe.mine.read_by_select}
    method = recipe.mine.select.filter.method
    steps["audit"] = audit_step(data, teachers, {method: steps["groups"]}, recipe.audit)
    guides = dense_teachers(recipe.mine, steps)
    further = [further_set(name, recipe, model, session) for name in recipe.also]
    steps |= {f"{source.name}.{key}": step for source, made in further for key, step in made.items()}
    also = [source for source, _ in further]
    if isinstance(trained, CrossEncoderModel):
        steps["untrained"] = trained.start
        also = [replace(source, prompts=trained.prompts) for source in also]
    drafts = drafted(steps)
    steps["order"] = plan_step(data, steps["groups"], trained, recipe.train, guides, also, drafts)
    return steps


def further_set(name: str, recipe: Recipe, model: Model, session: Session) -> tuple[Source, dict[str, Step]]:
    """Return a data set under `also` as training reads it, and the steps that mine it."""
    dataset = recipe.also[name]
    if dataset.query_prompt is not None:
        model = replace(model, prompts=replace(model.prompts, query=dataset.query_prompt, tasks=()))
    steps = {"data": ingest_step(dataset.data)}
    shared = Shared(steps["data"], model, recipe.encode, (dataset.mine.split,), session)
    steps |= mine_steps(dataset.mine, shared)
    source = Source(
        name,
        steps["data"],
        steps["groups"],
        model.prompts,
        dense_teachers(dataset.mine, steps),
        recipe.set_settings[name],
        drafted(steps),
    )
    return source, steps


def drafted(steps: Mapping[str, Step]) -> tuple[Step, Step] | tuple[()]:
    """Return the queries that were generated for a data set and the search for their documents, if there are any."""
    return (steps["drafts"], steps["drafts_candidates"]) if "drafts" in steps else ()


def dense_teachers(mine: MineConfig, steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return name -> embeddings of the dense teachers of ``mine``."""
    return {name: steps[key] for name in mine.teachers if (key := f"{name}_embeddings") in steps}


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
    wanted = TARGETS[command]
    if "untrained" in steps and "index" in wanted:
        if command == "index":
            raise UserError(
                "a cross-encoder embeds nothing, so there is nothing to index",
                where="train.cross_encoder",
                fix="stope evaluate trains and measures it; remove train.cross_encoder to train the model itself",
            )
        wanted = tuple("trained" if name == "index" else name for name in wanted)
    missing = [name for name in wanted if name not in steps]
    if missing:
        raise UserError(
            f"a corpus without queries cannot be taken as far as {missing[0]}",
            where="data.kind",
            got="texts",
            expected="data with labelled queries: docstrings, beir or pairs",
            fix="stope encode embeds a corpus alone",
        )
    if command == "mine":
        # What can be mined before anything is trained: of several rounds the first.
        first = "round1." if "round1.groups" in steps else ""
        mined = [f"{first}{name}" for name in TARGETS[command]]
        further = (name for name in steps if name.startswith(first) and name.endswith(".groups"))
        return tuple(dict.fromkeys([*mined, *further]))
    earlier = (name for name in steps if name.startswith("round") and name.endswith(".audit"))
    return (*wanted, *(earlier if "audit" in wanted else ()))
