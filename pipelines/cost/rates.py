"""How fast a device works: from its data sheet, or measured on this machine."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from time import monotonic, thread_time
from typing import TYPE_CHECKING

from pipelines.cost.accelerators import Accelerator

if TYPE_CHECKING:
    import torch

GIB = 2**30
PROBE_S = 0.4
"""Seconds of each part of the probe; the best pass counts, because other work can only slow one down."""
PROBE_FLOATS = 2**25
DISK_PROBE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Shares:
    """Which share of the rate of plain matrix products a stage achieves end to end.

    Args:
        encode: Forward passes over padded batches of like length.
        train: Forward, backward, optimizer and exchange of gradients.
        search: Products and the selection of the best scores; on a processor relative to float32 products.
        ivf: Products of the documents of single lists, on processors; a GPU is bound by its memory there.
    """

    encode: float
    train: float
    search: float
    ivf: float


SHARES = {
    # all-MiniLM-L6-v2 on two cores with AMX: 29k tokens/s in two actors, 0.7 of 900 GFLOP/s; without AMX, float32,
    # 0.7 of 150 GFLOP/s a core. Training at 6k tokens/s: 0.43. faiss: 238 GFLOP/s beside 200 of the float32 product.
    "cpu": Shares(encode=0.7, train=0.43, search=1.0, ivf=0.5),
    # Assumed, not measured here: large encoders reach half of the data sheet, training 40%.
    "cuda": Shares(encode=0.5, train=0.4, search=0.7, ivf=1.0),
}

PROCESSOR_FLOPS = {"float32": 1.0e11, "bfloat16": 4.5e11}
"""FLOP/s of one core with AMX, where no probe is made. Without AMX bfloat16 is slower than float32, and `dtype: auto`
is float32."""
PROCESSOR_MEMORY_BYTES_S = 1.0e10
"""Of one core."""
STORAGE_BYTES_S = 5.0e8
"""Of an object store or a shared disk, for one node, where no probe is made."""


@dataclass(frozen=True)
class Rates:
    """What one device does in a second. The device is a GPU, or one core of a processor.

    Args:
        device: Name, for tables.
        kind: cuda or cpu.
        flops: dtype -> FLOP/s of plain matrix products.
        memory_bytes_s: Bandwidth of its memory.
        memory_bytes: Size of a GPU's memory; 0 for a core, whose memory the definition says.
        has_bfloat16: Whether `dtype: auto` is bfloat16.
        is_measured: Whether a probe measured it.
    """

    device: str
    kind: str
    flops: Mapping[str, float]
    memory_bytes_s: float
    memory_bytes: int
    has_bfloat16: bool
    is_measured: bool = False

    @property
    def shares(self) -> Shares:
        """What stages achieve of it."""
        return SHARES[self.kind]

    def resolve(self, dtype: str) -> str:
        """Return the dtype that ``auto`` stands for on this device; any other name unchanged."""
        if dtype != "auto":
            return dtype
        return "bfloat16" if self.has_bfloat16 else "float32"

    def of(self, dtype: str) -> float:
        """Return the FLOP/s in ``dtype``; one that the device has no matrix units for runs as float32."""
        return self.flops.get(dtype, self.flops["float32"])


def accelerator_rates(name: str, accelerator: Accelerator) -> Rates:
    """Return the rates of a data sheet."""
    half = accelerator.half_tflops * 1e12
    flops = {"float32": accelerator.float32_tflops * 1e12, "float16": half}
    return Rates(
        device=name,
        kind="cuda",
        flops=flops | ({"bfloat16": half} if accelerator.has_bfloat16 else {}),
        memory_bytes_s=accelerator.memory_gb_s * 1e9,
        memory_bytes=int(accelerator.memory_gib * GIB),
        has_bfloat16=accelerator.has_bfloat16,
    )


def processor_rates(has_bfloat16: bool) -> Rates:
    """Return the recorded rates of one core, for machines that cannot be probed from here."""
    flops = dict(PROCESSOR_FLOPS) if has_bfloat16 else {"float32": PROCESSOR_FLOPS["float32"]}
    return Rates("core", "cpu", flops, PROCESSOR_MEMORY_BYTES_S, 0, has_bfloat16)


def measure_rates() -> Rates:
    """Measure matrix products and memory of this machine, for a second or two.

    A core is measured by the time that its thread was running: other work on the machine does not count, so what is
    predicted is what the machine takes when it has nothing else to do.

    Returns:
        Rates of this machine's GPU where there is one, else of one core.
    """
    import torch

    from models.precision import device_kind, resolve_dtype

    kind = device_kind()
    best_dtype = resolve_dtype("auto")
    size = 1024 if kind == "cpu" else 8192
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if kind == "cpu" else threads)
    try:
        flops = {
            dtype: 2.0 * size**3 / _product_s(getattr(torch, dtype), size, kind)
            for dtype in dict.fromkeys(("float32", best_dtype))
        }
        source = torch.ones(PROBE_FLOATS, device=kind)
        target = torch.empty_like(source)
        copied = 2 * source.nbytes / _best_pass(lambda: target.copy_(source), kind)
    finally:
        torch.set_num_threads(threads)
    memory = int(torch.cuda.get_device_properties(0).total_memory) if kind == "cuda" else 0
    name = torch.cuda.get_device_name() if kind == "cuda" else "core"
    return Rates(name, kind, flops, copied, memory, best_dtype == "bfloat16", is_measured=True)


def _product_s(dtype: "torch.dtype", size: int, kind: str) -> float:
    import torch

    left = torch.ones(size, size, dtype=dtype, device=kind)
    return _best_pass(lambda: left @ left, kind)


def _best_pass(run: Callable[[], object], kind: str) -> float:
    """Return the seconds of the fastest of the passes that fit PROBE_S, at least two."""
    import torch

    clock = thread_time if kind == "cpu" else monotonic
    run()
    seconds: list[float] = []
    end = monotonic() + PROBE_S
    while len(seconds) < 2 or monotonic() < end:
        started = clock()
        run()
        if kind == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - started)
    return min(seconds)


def measure_disk(folder: Path) -> float:
    """Return the bytes a second that are written to ``folder`` and brought to its disk."""
    content = os.urandom(DISK_PROBE_BYTES)
    with NamedTemporaryFile(dir=folder, prefix=".stope-probe-") as file:
        started = monotonic()
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return DISK_PROBE_BYTES / (monotonic() - started)
