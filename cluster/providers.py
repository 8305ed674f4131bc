"""Where nodes come from: one model a kind of provider."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_FROZEN = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LocalProvider(BaseModel):
    """This machine, as an embedded cluster that lives as long as the command."""

    model_config = _FROZEN

    kind: Literal["local"]
    """Always ``local``."""


class OnPremiseProvider(BaseModel):
    """Machines that exist already, reached over SSH."""

    model_config = _FROZEN

    kind: Literal["on_premise"]
    """Always ``on_premise``."""
    head: str
    """Host name or address of the head."""
    hosts: Annotated[list[str], Field(min_length=1)]
    """Host names or addresses of the workers."""
    ssh_user: str
    """User to log in as."""
    ssh_private_key: str | None = None
    """Path of the key; none leaves it to the SSH agent."""


class AwsProvider(BaseModel):
    """EC2 instances."""

    model_config = _FROZEN

    kind: Literal["aws"]
    """Always ``aws``."""
    region: str
    """Such as ``eu-west-1``."""
    availability_zones: list[str] = []
    """Zones to start nodes in, in order of preference; empty means all of the region."""
    ssh_user: str = "ubuntu"
    """User of the machine image."""


class GcpProvider(BaseModel):
    """Compute Engine instances."""

    model_config = _FROZEN

    kind: Literal["gcp"]
    """Always ``gcp``."""
    project_id: str
    """Project that pays."""
    region: str
    """Such as ``europe-west4``."""
    availability_zone: str
    """Such as ``europe-west4-a``."""
    ssh_user: str = "ubuntu"
    """User of the machine image."""


class KubernetesProvider(BaseModel):
    """Pods of a Kubernetes cluster with the KubeRay operator."""

    model_config = _FROZEN

    kind: Literal["kubernetes"]
    """Always ``kubernetes``."""
    namespace: str
    """Namespace of all objects."""
    context: str | None = None
    """Context of the kubeconfig; none takes the current one."""
    service_account: str | None = None
    """Service account of the pods; none takes the namespace's default."""


Provider = Annotated[
    LocalProvider | OnPremiseProvider | AwsProvider | GcpProvider | KubernetesProvider,
    Field(discriminator="kind"),
]
