"""A torch process group among the workers of one Ray Train run that listens on the node's own address alone.

Ray's torch backend lets torch open the rendezvous store, and torch binds it to every interface.
"""

import os
import socket
from datetime import timedelta

JOIN_TIMEOUT_S = 600


def join_process_group(backend: str) -> None:
    """Join the process group of this Ray Train run; to be called once by each of its workers.

    Args:
        backend: ``"nccl"`` or ``"gloo"``.
    """
    import ray
    import ray.train
    import ray.train.collective
    from torch import distributed
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    timeout = timedelta(seconds=JOIN_TIMEOUT_S)
    node = ray.util.get_node_ip_address()
    if node == "127.0.0.1":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    # DeepSpeed's launcher would set it: the number of this worker's device among those that it sees, which is one.
    os.environ["LOCAL_RANK"] = "0"
    if rank == 0:
        listener = socket.create_server((node, 0))
        host, port = listener.getsockname()[:2]
        descriptor = listener.detach()
        store = TCPStore(
            host, port, world, True, timeout, wait_for_workers=False, master_listen_fd=descriptor
        )
        ray.train.collective.broadcast_from_rank_zero((host, port))
    else:
        host, port = ray.train.collective.broadcast_from_rank_zero(None)
        store = TCPStore(host, port, world, False, timeout, wait_for_workers=False)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
