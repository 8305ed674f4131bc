"""Where the actors of a role stand: how many, on which devices, with how much memory, how long until they work."""

from dataclasses import dataclass

from cluster.definition import ClusterDefinition, RoleConfig, RoleName
from cluster.errors import UserError
from cluster.machine import local_limits
from cluster.session import Session
from models.precision import processor_has_bfloat16
from pipelines.cost.accelerators import find_accelerator
from pipelines.cost.rates import (
    STORAGE_BYTES_S,
    Rates,
    accelerator_rates,
    processor_rates,
)
from pipelines.cost.train_work import TrainWork
from pipelines.cost.works import EncodeWork, GenerateWork, PlanWork, ScoreWork, SearchWork

ROLES: dict[str, RoleName] = {
    "encode": "encode",
    "search": "search",
    "score": "score",
    "train": "train",
    "generate": "generate",
}
"""Stage -> the role whose actors do its work; the others run in one process, on one core."""
START_S: dict[type, float] = {
    EncodeWork: 17.0,
    SearchWork: 5.0,
    ScoreWork: 17.0,
    GenerateWork: 17.0,
    PlanWork: 5.0,
    TrainWork: 20.0,
}
"""Kind of work -> seconds until its actors work, on two cores: imports of torch and transformers, the weights, Ray's
own pipelines and workers. The others run in the process of the command."""
CLUSTER_START_S = 5.0
"""Of the embedded cluster, once."""
NODE_START_S = 240.0
"""Until a node that an autoscaler asks for has joined and pulled its image; once a worker group that has no node."""


@dataclass(frozen=True)
class Hardware:
    """What costs are computed for.

    Args:
        definition: The cluster.
        measured: Rates of this machine, where they were measured.
        storage_bytes_s: Of the storage, for one node.
        accelerator: Stands in for the accelerators of the definition; None: as it says.
    """

    definition: ClusterDefinition
    measured: Rates | None = None
    storage_bytes_s: float = STORAGE_BYTES_S
    accelerator: str | None = None


@dataclass(frozen=True)
class Seat:
    """The actors of one role.

    Args:
        role: Name of the role; driver for the process that runs the command.
        rates: Of one of its devices.
        actors: At most.
        devices: GPUs or cores of one actor.
        beside_cores: Cores that tokenise and merge beside them.
        shares_cores: Whether those are the same cores that the actors compute with.
        nodes: Nodes that the actors fill.
        node_price: Of one of them an hour; None where the definition does not say.
        host_limit: Bytes of memory that one actor may take; 0 where nothing limits it.
        device_limit: Bytes of GPU memory of one actor; 0 on processors.
        where: Key of the definition that decides, for messages.
    """

    role: str
    rates: Rates
    actors: int
    devices: float
    beside_cores: float
    shares_cores: bool
    nodes: int
    node_price: float | None
    host_limit: int
    device_limit: int
    where: str


def seat_of(hardware: Hardware, stage: str) -> Seat:
    """Return where the work of ``stage`` is done.

    Raises:
        UserError: The definition leaves its role out, or does not say which accelerator its nodes have.
    """
    definition = hardware.definition
    role_name = ROLES.get(stage)
    if role_name is None:
        return _driver(hardware)
    role = definition.role(role_name)
    rates = rates_of(hardware, role_name)
    session = Session(definition)
    invented = hardware.accelerator is not None and not role.gpus
    actors = 1 if invented else _actors(session, role_name, role)
    group = definition.group(role.group)
    cpus, memory = local_limits(group) if definition.is_local else (float(group.cpus), int(group.memory))
    gpus = 1.0 if invented else role.gpus
    cores = cpus / actors if definition.is_local else max(1.0, role.cpus)
    devices = gpus if rates.kind == "cuda" else cores
    # A fraction of a GPU, or several whole ones.
    per_node = (
        max(1, int(group.gpus / gpus)) if group.gpus and gpus else max(1, int(cpus / max(role.cpus, 1)))
    )
    is_shared = definition.is_local and rates.kind == "cpu"
    return Seat(
        role=role_name,
        rates=rates,
        actors=actors,
        devices=devices,
        beside_cores=cpus if definition.is_local else _tokenising_cores(session, cpus),
        shares_cores=is_shared,
        nodes=1 if definition.is_local else -(-actors // per_node),
        node_price=group.price_per_hour,
        host_limit=role.memory or (memory // actors if definition.is_local else memory // per_node),
        device_limit=int(rates.memory_bytes * gpus) if rates.kind == "cuda" else 0,
        where=f"roles.{role_name}",
    )


def rates_of(hardware: Hardware, role_name: RoleName) -> Rates:
    """Return the rates of the devices that a role computes with.

    Raises:
        UserError: It has GPUs, and nothing says of which kind.
    """
    role = hardware.definition.role(role_name)
    group = hardware.definition.group(role.group)
    if hardware.accelerator is not None:
        name = hardware.accelerator
        return accelerator_rates(name, find_accelerator(name, "--accelerator"))
    measured = hardware.measured if hardware.definition.is_local else None
    if not role.gpus:
        return measured if measured and measured.kind == "cpu" else processor_rates(processor_has_bfloat16())
    if measured and measured.kind == "cuda":
        return measured
    if group.accelerator is None:
        raise UserError(
            "the definition does not say which GPU its nodes have",
            where=f"definition {hardware.definition.name}, workers.{group.name}.accelerator",
            fix="name it there, or add --accelerator H100",
        )
    where = f"workers.{group.name}.accelerator"
    return accelerator_rates(group.accelerator, find_accelerator(group.accelerator, where))


def num_ranks(hardware: Hardware) -> int:
    """Return the workers of training."""
    return seat_of(hardware, "train").actors


def _actors(session: Session, role_name: RoleName, role: RoleConfig) -> int:
    most = session.pool(role_name)[1]
    if role_name != "train":
        return most
    wanted = role.workers or 1
    ranks = wanted if isinstance(wanted, int) else wanted[1]
    return min(ranks, most) if session.definition.is_local else ranks


def _tokenising_cores(session: Session, cpus: float) -> float:
    role = session.definition.roles.tokenize
    return cpus if role is None else session.pool("tokenize")[1] * max(role.cpus, 1.0)


def _driver(hardware: Hardware) -> Seat:
    definition = hardware.definition
    memory = local_limits(definition.workers[0])[1] if definition.is_local else 0
    if definition.head is not None:
        memory = definition.head.memory
    rates = hardware.measured if hardware.measured and hardware.measured.kind == "cpu" else None
    return Seat(
        role="driver",
        rates=rates or processor_rates(processor_has_bfloat16()),
        actors=1,
        devices=1.0,
        beside_cores=1.0,
        shares_cores=True,
        nodes=1,
        # The head is paid for as long as the whole run takes.
        node_price=0.0,
        host_limit=memory,
        device_limit=0,
        where="head" if definition.head else f"workers.{definition.workers[0].name}",
    )
