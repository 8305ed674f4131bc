"""The engine that a recipe chooses for a model, as it will run in the actors of a role."""

from typing import TYPE_CHECKING, Literal

from cluster.errors import UserError
from models.vllm_engine.support import Engine, installed_version

if TYPE_CHECKING:
    from cluster.definition import RoleName
    from cluster.session import Session

EngineName = Literal["torch", "vllm"]


def resolve_engine(
    name: EngineName, gpu_memory_fraction: float, role: "RoleName", session: "Session"
) -> Engine | None:
    """Ask the machine that will run it for its vLLM, and share its GPU out; None for torch.

    An actor holds one engine, so actors that share a GPU share its memory.

    Args:
        name: As the recipe says.
        gpu_memory_fraction: Of an actor's share of a GPU.
        role: Whose actors hold the engines.
        session: The cluster.

    Raises:
        ModelError: vLLM is not installed there.
        UserError: An actor has several GPUs.
    """
    if name == "torch":
        return None
    gpus = session.definition.role(role).gpus
    if gpus > 1:
        raise UserError(
            "an engine computes on one GPU",
            where=f"definition {session.definition.name}, roles.{role}.gpus",
            got=f"{gpus:g}",
            expected="at most 1",
            fix=f"write gpus: 1 there and {gpus:g} times as many actors in the pool",
        )
    # Without GPUs of its own a role's actors all see those of the machine.
    share = gpus or 1 / session.pool(role)[1]
    return Engine(session.run_on(role, installed_version), gpu_memory_fraction * share)


def engine_identity(engine: Engine | None) -> str | None:
    """Return what results depend on; None for torch, whose version a step's libraries name."""
    return None if engine is None else f"vllm {engine.version}"
