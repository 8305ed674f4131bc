"""What one step asks of devices, processors, memory and storage."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """What a step asks for.

    Args:
        flops: Of matrix products.
        device_seconds: Of one device of the rates.
        bound: What the device waits for: matmul or memory; empty where there is no device work.
        core_seconds: Of one core, beside the device.
        moved_bytes: Read from and written to storage.
        storage_bytes: Kept.
        temporary_bytes: Stored until the step has ended.
        device_memory: On a GPU, one actor's; on a processor it adds to ``host_memory``.
        host_memory: One actor's, beside ``device_memory``.
        object_store_bytes: In flight between tasks, for one actor.
        num_tasks: Pieces that actors share.
    """

    flops: float = 0.0
    device_seconds: float = 0.0
    bound: str = ""
    core_seconds: float = 0.0
    moved_bytes: float = 0.0
    storage_bytes: float = 0.0
    temporary_bytes: float = 0.0
    device_memory: float = 0.0
    host_memory: float = 0.0
    object_store_bytes: float = 0.0
    num_tasks: int = 1
