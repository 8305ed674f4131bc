"""The Ray Serve application of a release: ingress and model in one deployment.

One process reads the request, tokenises, batches, embeds, searches and writes the answer, so that a request
crosses one process boundary (from the proxy) and answers of one release never mix with those of another.
"""

from pathlib import Path
from typing import Any

import ray.serve
import ray.util
from ray.serve._private import replica as serve_replica
from ray.serve.config import AutoscalingConfig
from starlette.types import ASGIApp

from cluster.definition import RoleConfig
from serve.api import build_api
from serve.config import ServeConfig
from serve.guard import Access
from serve.release import ServedRelease

# The replica bounds its queue in tokens and refuses in JSON. Serve's own bounds count requests and refuse in
# plain text; they are only there to keep a flood of tiny requests out of the memory.
MAX_ONGOING_REQUESTS = 1_000
MAX_QUEUED_REQUESTS = 2_000
# Requests that one replica works on before another is started; batching makes so many cheap.
TARGET_ONGOING_REQUESTS = 16


class ReleaseReplica:
    """One replica: a release in memory behind the HTTP routes.

    Args:
        directory: Of the release.
        config: How it is served.
        access: Who may ask for what.
    """

    def __init__(self, directory: Path, config: ServeConfig, access: Access) -> None:
        _listen_on_node_address_only()
        self._access = access
        # Serve calls this inside the running loop, in which the batcher is to live.
        self._release = ServedRelease(directory, config)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Return the routes; Serve asks once the constructor is through."""
        return build_api(self._release, self._access)

    def check_health(self) -> None:
        """Have this replica replaced when its batcher has died; Serve asks periodically."""
        if not self._release.is_ready:
            raise RuntimeError("the batcher has died")


def _listen_on_node_address_only() -> None:
    """Bind this replica's internal server to the node's address: the loopback address in an embedded cluster.

    Ray Serve 2.60 binds it to all interfaces (``_on_initialized`` in its replica.py), asks for no token there
    and unpickles what it is sent, so that anybody who reaches the port could run code. Routers use the node's
    address.
    """
    add_port = serve_replica.add_port_to_grpc_server

    def add_port_of_node(server: object, _all_interfaces: str) -> int:
        port: int = add_port(server, f"{ray.util.get_node_ip_address()}:0")
        return port

    serve_replica.add_port_to_grpc_server = add_port_of_node


def build_application(
    directory: Path, config: ServeConfig, access: Access, role: RoleConfig, resources: dict[str, Any]
) -> ray.serve.Application:
    """Return what Ray Serve runs.

    Args:
        directory: Of the release, readable on every node that may hold a replica.
        config: How it is served.
        access: Who may ask for what.
        role: The definition's ``serve`` role, for the number of replicas.
        resources: What one replica asks of Ray.
    """
    replicas: dict[str, Any] = {"num_replicas": role.replicas or 1}
    if isinstance(role.replicas, tuple):
        fewest, most = role.replicas
        replicas = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=fewest, max_replicas=most, target_ongoing_requests=TARGET_ONGOING_REQUESTS
            )
        }
    deployment = ray.serve.deployment(
        ray.serve.ingress()(ReleaseReplica),
        name="release",
        ray_actor_options=resources,
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        max_queued_requests=MAX_QUEUED_REQUESTS,
        max_constructor_retry_count=1,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=10,
        **replicas,
    )
    return deployment.bind(directory, config, access)
