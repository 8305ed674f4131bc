"""From works to an estimate: device hours, wall time, memory and storage of every step, and what to mind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil

from pipelines.cost.load import Load
from pipelines.cost.model import cost_of
from pipelines.cost.rates import GIB
from pipelines.cost.seats import CLUSTER_START_S, NODE_START_S, START_S, Hardware, Seat, seat_of
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import (
    EncodeWork,
    GenerateWork,
    IndexWork,
    LexicalWork,
    PlannedStep,
    ScoreWork,
    SearchWork,
    Work,
)

EXACT_BUDGET_PAIRS = 1e14
EXACT_BUDGET_DIMENSION = 768
"""An exact search of so many (query, document) pairs takes about five minutes of an H100 at half of its rate in
bfloat16; beyond it, and on processors beyond PROCESSOR_SEARCH_S, an inverted file is recommended."""
PROCESSOR_SEARCH_S = 3600.0


@dataclass(frozen=True)
class Measured:
    """What a step took.

    Args:
        seconds: Wall time of the run that committed it.
        rows: Of all tables.
        storage_bytes: Of all tables and files.
        tokens: That it embedded; 0 where it did none.
        key: Of its artifact.
    """

    seconds: float
    rows: int
    storage_bytes: int
    tokens: int
    key: str


@dataclass(frozen=True)
class StepCost:
    """What one step takes.

    Args:
        step: Its name.
        stage: Name of the stage's folder.
        label: What it works on.
        dataset: Of which data set; see PlannedStep.
        flops: Of matrix products.
        device: Kind of device.
        device_hours: Hours of one such device, all actors added up; what starting takes is not in them.
        actors: That work at a time.
        wall_s: From start to commit.
        start_s: Of it, until the actors work.
        bound: What takes the longest: matmul, memory, tokenising, processor, storage or start.
        memory_bytes: Of one actor, on its device.
        host_memory_bytes: Of one actor; the same where the device is a processor.
        object_store_bytes: In flight between tasks, all actors added up.
        storage_bytes: Kept.
        temporary_bytes: Stored until the step has ended.
        price: Of the nodes that its actors fill, while it lasts; None where the definition does not say.
        exact_budget: Share of the exact budget that a search uses; None for other steps.
        measured: What it took; None where it was not run.
    """

    step: str
    stage: str
    label: str
    dataset: str
    flops: float
    device: str
    device_hours: float
    actors: int
    wall_s: float
    start_s: float
    bound: str
    memory_bytes: float
    host_memory_bytes: float
    object_store_bytes: float
    storage_bytes: float
    temporary_bytes: float
    price: float | None
    exact_budget: float | None = None
    measured: Measured | None = None


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Args:
        steps: In order; they run one after the other.
        wall_s: Of all steps, and of the start of the cluster and its nodes.
        device_hours: Kind of device -> hours.
        storage_bytes: Kept.
        peak_storage_bytes: The most that is stored at a time.
        price: Of all steps, and of the head meanwhile; None where the definition prices no node.
        dominant: Name of the step that takes the longest.
        warnings: What will not fit, or should be done otherwise.
    """

    steps: tuple[StepCost, ...]
    wall_s: float
    device_hours: Mapping[str, float]
    storage_bytes: float
    peak_storage_bytes: float
    price: float | None
    dominant: str
    warnings: tuple[str, ...] = field(default=())


def estimate(steps: Sequence[PlannedStep], hardware: Hardware) -> Estimate:
    """Return what the steps take on this hardware.

    Raises:
        UserError: The definition lacks a role that a step needs, or does not name its accelerator.
    """
    costs: list[StepCost] = []
    warnings: list[str] = []
    for step in steps:
        seat = seat_of(hardware, step.stage)
        load = cost_of(step.work, seat.rates)
        cost = step_cost(step, load, seat, hardware.storage_bytes_s)
        if isinstance(step.work, SearchWork) and step.work.index == "exact":
            cost = replace(cost, exact_budget=_share_of_budget(load, seat))
        if isinstance(step.work, SearchWork):
            warnings += search_warnings(step, step.work, cost, load, seat)
        warnings += memory_warnings(step, load, seat)
        costs.append(cost)
    hours: dict[str, float] = {}
    for cost in costs:
        hours[cost.device] = hours.get(cost.device, 0.0) + cost.device_hours
    kept = [sum(cost.storage_bytes for cost in costs[: index + 1]) for index in range(len(costs))]
    peak = max((total + cost.temporary_bytes for total, cost in zip(kept, costs, strict=True)), default=0.0)
    wall_s = sum(cost.wall_s for cost in costs) + cluster_start_s(steps, hardware)
    return Estimate(
        steps=tuple(costs),
        wall_s=wall_s,
        device_hours={device: spent for device, spent in hours.items() if spent},
        storage_bytes=kept[-1] if kept else 0.0,
        peak_storage_bytes=peak,
        price=_total_price(costs, wall_s, hardware),
        dominant=max(costs, key=lambda cost: cost.wall_s).step if costs else "",
        warnings=tuple(dict.fromkeys(warnings)),
    )


def step_cost(step: PlannedStep, load: Load, seat: Seat, storage_bytes_s: float) -> StepCost:
    """Return what a step takes where its actors stand.

    The pieces of a step are as large as each other, so the last round of actors is as long as the others. Tokenising,
    reading and writing run beside the devices, except where they share the cores.
    """
    used = min(seat.actors, load.num_tasks)
    tail = ceil(load.num_tasks / used) * used / load.num_tasks
    device_s = load.device_seconds / (used * seat.devices) * tail
    core_s = load.core_seconds / min(seat.beside_cores, max(1, load.num_tasks))
    storage_s = load.moved_bytes / (storage_bytes_s * min(seat.nodes, used))
    if seat.shares_cores:
        cores = min(used * seat.devices, seat.beside_cores)
        core_s = load.core_seconds / max(1.0, cores)
        wall = max(device_s + core_s, storage_s)
    else:
        wall = max(device_s, core_s, storage_s)
    start_s = START_S.get(type(step.work), 0.0)
    beside = "tokenising" if step.stage in ("encode", "score") else "processor"
    parts = {load.bound or "processor": device_s, "storage": storage_s, "start": start_s}
    parts[beside] = parts.get(beside, 0.0) + core_s
    is_gpu = seat.rates.kind == "cuda" and load.device_seconds > 0
    return StepCost(
        step=step.name,
        stage=step.stage,
        label=step.label,
        dataset=step.dataset,
        flops=load.flops,
        device=seat.rates.device if load.device_seconds else "core",
        device_hours=(load.device_seconds or load.core_seconds) / 3600,
        actors=used,
        wall_s=wall + start_s,
        start_s=start_s,
        bound=max(parts, key=lambda name: parts[name]),
        memory_bytes=load.device_memory if is_gpu else load.host_memory,
        host_memory_bytes=load.host_memory,
        object_store_bytes=load.object_store_bytes * used,
        storage_bytes=load.storage_bytes,
        temporary_bytes=load.temporary_bytes,
        price=None
        if seat.node_price is None
        else seat.node_price * ceil(seat.nodes * used / seat.actors) * (wall + start_s) / 3600,
    )


def _total_price(costs: Sequence[StepCost], wall_s: float, hardware: Hardware) -> float | None:
    """Return what all steps cost, with the head; None where no node has a price, or some that work have none."""
    definition = hardware.definition
    head = definition.head.price_per_hour if definition.head else None
    of_groups = [group.price_per_hour for group in definition.workers]
    prices = [cost.price for cost in costs]
    if None in prices or all(price is None for price in (head, *of_groups)):
        return None
    return sum(price for price in prices if price is not None) + (head or 0.0) * wall_s / 3600


def cluster_start_s(steps: Sequence[PlannedStep], hardware: Hardware) -> float:
    """Return the seconds until the embedded cluster stands, or until nodes of the groups that have none have joined."""
    definition = hardware.definition
    if definition.is_local:
        return CLUSTER_START_S
    roles = {seat_of(hardware, step.stage).role for step in steps} - {"driver"}
    groups = {getattr(definition.roles, role).group for role in roles}
    return NODE_START_S * sum(definition.group(name).min == 0 for name in groups)


def memory_warnings(step: PlannedStep, load: Load, seat: Seat) -> list[str]:
    """Return what does not fit: one actor on its GPU, or on its share of the node."""
    warnings = []
    if seat.device_limit and load.device_memory > seat.device_limit:
        warnings.append(
            f"{step.name}: an actor needs {load.device_memory / GIB:.1f} GiB on a {seat.rates.device} of "
            f"{seat.device_limit / GIB:.0f} GiB; {_remedy(step.work)}"
        )
    if seat.host_limit and load.host_memory > seat.host_limit:
        warnings.append(
            f"{step.name}: an actor needs {load.host_memory / GIB:.1f} GiB, {seat.where} leaves it "
            f"{seat.host_limit / GIB:.1f} GiB; raise {seat.where}.memory, or {_remedy(step.work)}"
        )
    return warnings


_REMEDIES: dict[type, str] = {
    EncodeWork: "lower encode.token_budget",
    SearchWork: "lower mine.search.group_mb",
    ScoreWork: "lower the reranker's token_budget",
    GenerateWork: "lower mine.generate.token_budget",
    TrainWork: "lower train.batch_size, raise train.zero_stage or set train.gradient_checkpointing",
    LexicalWork: "leave bm25 out: its index of all documents is held by one process",
    IndexWork: "set index.kind to int8 or binary: one process holds all of an index, and a flat one is the largest",
}


def _remedy(work: Work) -> str:
    return _REMEDIES.get(type(work), "take a machine with more memory")


def _share_of_budget(load: Load, seat: Seat) -> float:
    if seat.rates.kind == "cuda":
        return load.flops / (2 * EXACT_BUDGET_PAIRS * EXACT_BUDGET_DIMENSION)
    return load.device_seconds / (seat.actors * seat.devices) / PROCESSOR_SEARCH_S


def search_warnings(step: PlannedStep, work: SearchWork, cost: StepCost, load: Load, seat: Seat) -> list[str]:
    """Return the advice to search approximately, or in larger groups, where exact search takes too much."""
    warnings = []
    if cost.exact_budget is not None and cost.exact_budget > 1:
        inverted = cost_of(replace(work, index="ivf"), seat.rates)
        limit = (
            f"{EXACT_BUDGET_PAIRS:.0e} pairs at d = {EXACT_BUDGET_DIMENSION}"
            if seat.rates.kind == "cuda"
            else f"{PROCESSOR_SEARCH_S / 3600:.0f} h of this machine"
        )
        # Beside the devices, the lists are trained by processors; results are merged either way.
        other = (inverted.device_seconds + inverted.core_seconds - load.core_seconds) / 3600
        advice = (
            f"set {step.setting}: ivf (about {other:,.1f})"
            if other < cost.device_hours and step.setting
            else ""
        )
        warnings.append(
            f"{step.name}: exact search of {work.num_queries * work.num_documents:.1e} pairs at d = {work.dimension} "
            f"is {cost.exact_budget:,.1f} times the exact budget ({limit}): {cost.device_hours:,.1f} {cost.device} "
            f"hours; {advice or 'ask fewer queries'}"
        )
    if cost.bound == "storage" and 2 * load.temporary_bytes > load.moved_bytes / 2:
        warnings.append(
            f"{step.name}: the tiles, {cost.temporary_bytes / GIB:,.0f} GiB of partial results, take longer to store "
            f"than to compute; raise mine.search.group_mb ({work.group_bytes >> 20})"
        )
    return warnings
