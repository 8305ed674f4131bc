"""One cluster definition: what the hardware is, and what each role may use of it."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from cluster.errors import UserError
from cluster.providers import Provider
from cluster.yaml_model import load_yaml_model

DEFINITIONS = Path(__file__).parent / "definitions"
RoleName = Literal["tokenize", "encode", "search", "score", "generate", "train", "serve"]
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def parse_memory(value: object) -> object:
    """Turn ``64Gi``, ``1.5G`` or a number into bytes; anything else is left for the model to refuse."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]i?|)", value)
        if not match:
            raise ValueError("not an amount of memory; write a number and a unit, such as 64Gi or 512Mi")
        return int(float(match[1]) * _UNITS[match[2]])
    return value


Memory = Annotated[int, BeforeValidator(parse_memory), Field(ge=0)]
MemoryOrAuto = Annotated[
    int | Literal["auto"], BeforeValidator(lambda value: value if value == "auto" else parse_memory(value))
]
Count = Annotated[int, Field(ge=0)]


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SecurityConfig(_Config):
    """Who may talk to the cluster, and which secrets reach it."""

    auth: Literal["token", "disabled"] = "token"
    """``token``: every call to the cluster carries a token. ``disabled``: none does."""
    tls: bool = False
    """Encrypt what the nodes say to each other."""
    secrets: list[str] = []
    """Names of environment variables that workers receive; their values are never stored."""


class HeadConfig(_Config):
    """The node that schedules; it runs no role's work."""

    cpus: Annotated[float, Field(gt=0)]
    """Cores."""
    memory: Memory
    """Bytes, or with a unit: ``64Gi``."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """What it costs an hour, in whatever currency; ``stope cost`` adds it up. None: it is not told."""
    node: dict[str, JsonValue] = {}
    """What the provider needs: an instance type, a pod template."""


class WorkerGroup(_Config):
    """Worker nodes that are alike."""

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Lower case letters, digits and dashes."""
    cpus: Annotated[float, Field(gt=0)] | Literal["auto"]
    """Cores of one node; ``auto`` (provider local only): all that the process may use."""
    memory: MemoryOrAuto
    """Memory of one node, such as ``256Gi``; ``auto`` (provider local only): what is free, less a reserve."""
    gpus: Count = 0
    """GPUs of one node; 0 for none."""
    accelerator: str | None = None
    """Kind of GPU, as Ray names it, such as ``H100``; none where it does not matter."""
    min: Count = 0
    """Nodes that are always there."""
    max: Count = 1
    """Nodes at most."""
    spot: bool = False
    """Whether a node may be taken away at any time, at a lower price."""
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    """What one node costs an hour, in whatever currency; ``stope cost`` adds it up. None: it is not told."""
    labels: dict[str, str] = {}
    """Labels of the nodes, besides the group's own."""
    idle_timeout_s: Annotated[float, Field(gt=0)] = 300
    """Seconds without work after which a node is given back."""
    node: dict[str, JsonValue] = {}
    """What the provider needs: an instance type, a pod template."""


class RoleConfig(_Config):
    """What one actor of a role needs, where it may stand, how many there may be."""

    group: str
    """Name of the worker group."""
    cpus: Annotated[float, Field(ge=0)] = 1
    """Cores of one actor; fractions share a core."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of one actor; fractions share a GPU, 0 for none."""
    memory: Memory | None = None
    """Memory of one actor, such as ``24Gi``, for scheduling; none does not count it."""
    pool: tuple[Count, Count] | None = None
    """Fewest and most actors; none: as many as the group holds."""
    workers: Annotated[int, Field(ge=1)] | tuple[Count, Count] | None = None
    """Ranks of training: a number, or fewest and most for elastic training; only for ``train``."""
    replicas: Annotated[int, Field(ge=1)] | tuple[Count, Count] | None = None
    """Replicas of serving: a number, or fewest and most; only for ``serve``."""


class Roles(_Config):
    """The roles of the stages; one that a run does not use may be left out."""

    tokenize: RoleConfig | None = None
    """Reads shards and tokenises them, beside the actors of ``encode``."""
    encode: RoleConfig | None = None
    """Turns tokens into embeddings."""
    search: RoleConfig | None = None
    """Exact top-k of query blocks against document groups."""
    score: RoleConfig | None = None
    """Rerankers."""
    generate: RoleConfig | None = None
    """Language models that write queries."""
    train: RoleConfig | None = None
    """Ranks of training."""
    serve: RoleConfig | None = None
    """Replicas of serving."""


class ClusterDefinition(_Config):
    """What the hardware is and what each role may use; nothing else names a number of GPUs."""

    name: Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$")]
    """Lower case letters, digits and dashes."""
    provider: Provider
    """Where the nodes come from."""
    image: str | None = None
    """Container image with the dependencies; the code travels by itself. None: the nodes have them."""
    storage: str
    """Workspaces, code snapshots and releases: a path, or ``s3://``, ``gs://``, ``az://``."""
    security: SecurityConfig = SecurityConfig()
    """Who may talk to the cluster."""
    head: HeadConfig | None = None
    """The scheduling node; none for the provider local."""
    workers: Annotated[list[WorkerGroup], Field(min_length=1)]
    """Groups of worker nodes."""
    roles: Roles
    """What each role may use."""

    @property
    def is_local(self) -> bool:
        """Whether the cluster is embedded in the command."""
        return self.provider.kind == "local"

    def role(self, name: RoleName) -> RoleConfig:
        """Return the role ``name``.

        Raises:
            UserError: The definition leaves it out.
        """
        role: RoleConfig | None = getattr(self.roles, name)
        if role is None:
            raise UserError(
                "the definition has no such role", where=f"definition {self.name}", fix=f"add roles.{name}"
            )
        return role

    def group(self, name: str) -> WorkerGroup:
        """Return the worker group ``name``; the validator has seen to it that a role's group exists."""
        return next(group for group in self.workers if group.name == name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [group.name for group in self.workers]
        if len(set(names)) < len(names):
            raise ValueError(f"workers: two groups have the same name ({', '.join(names)})")
        for group in self.workers:
            if group.min > group.max:
                raise ValueError(f"workers.{group.name}: min {group.min} is above max {group.max}")
            if "auto" in (group.cpus, group.memory) and not self.is_local:
                raise ValueError(
                    f"workers.{group.name}: auto needs provider.kind local, not {self.provider.kind}"
                )
        if self.is_local and len(names) > 1:
            raise ValueError(f"workers: provider local has one group, not {len(names)} ({', '.join(names)})")
        if not self.is_local and self.head is None:
            raise ValueError(f"head: missing, and provider.kind {self.provider.kind} needs it")
        if self.provider.kind == "kubernetes" and self.image is None:
            raise ValueError("image: missing, and provider.kind kubernetes needs it")
        for role_name in get_args(RoleName):
            role = getattr(self.roles, role_name)
            if role is not None:
                self._check_role(role_name, role, names)
        return self

    def _check_role(self, name: str, role: RoleConfig, groups: list[str]) -> None:
        if role.group not in groups:
            raise ValueError(
                f"roles.{name}.group: no worker group {role.group!r} (there are: {', '.join(groups)})"
            )
        group = self.group(role.group)
        for field in ("cpus", "gpus", "memory"):
            wanted, there = getattr(role, field), getattr(group, field)
            if wanted is not None and there != "auto" and wanted > there:
                raise ValueError(
                    f"roles.{name}.{field} is {wanted}, more than workers.{group.name} has: {there}"
                )
        for field, owner in (("pool", None), ("workers", "train"), ("replicas", "serve")):
            bounds = getattr(role, field)
            if owner is not None and bounds is not None and name != owner:
                raise ValueError(f"roles.{name}.{field}: only roles.{owner} has {field}")
            if isinstance(bounds, tuple) and (bounds[0] > bounds[1] or bounds[1] < 1):
                raise ValueError(
                    f"roles.{name}.{field}: {list(bounds)} is not [fewest, most] with most at least 1"
                )


def load_definition(name_or_path: str) -> ClusterDefinition:
    """Read a definition.

    Args:
        name_or_path: The name of one that comes with the program (``local``), or a path.

    Returns:
        The definition; a relative ``storage`` is made absolute, from the folder of the definition's file.

    Raises:
        UserError: There is no such definition, or it is wrong.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml") and "/" not in name_or_path:
        path = DEFINITIONS / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in DEFINITIONS.glob("*.yaml")))
        raise UserError(
            "no such cluster definition", where=name_or_path, expected=f"a path, or one of: {known}"
        )
    definition = load_yaml_model(path, ClusterDefinition)
    if "://" in definition.storage:
        return definition
    storage = (path.resolve().parent / Path(definition.storage).expanduser()).resolve()
    return definition.model_copy(update={"storage": str(storage)})
