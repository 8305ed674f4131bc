"""Which device and which dtype a model runs in; importing this module loads no torch."""

from functools import lru_cache
from pathlib import Path

from models.errors import ModelError

DTYPES = ("bfloat16", "float16", "float32")


@lru_cache(maxsize=1)
def device_kind() -> str:
    """Return ``"cuda"`` where a usable GPU is present, else ``"cpu"``.

    torch is imported only where the machine has a GPU's device file, so that a command on a machine without
    one starts fast.
    """
    if not (any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_device(device: str) -> str:
    """Return the device that ``"auto"`` stands for on this machine; any other name unchanged.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``, a GPU's number added or not.

    Raises:
        ModelError: A GPU is asked for where there is none, or the name is unknown.
    """
    if device == "auto":
        return device_kind()
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ModelError("unknown device", got=repr(device), expected="auto, cpu or cuda")
    if kind == "cuda" and device_kind() != "cuda":
        raise ModelError("no usable GPU on this machine", got=device, fix="write device: auto")
    return device


@lru_cache(maxsize=1)
def processor_has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices in hardware (AVX512-BF16 or AMX)."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return False
    flags = next((line.split() for line in path.read_text().splitlines() if line.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_dtype(dtype: str, device: str | None = None) -> str:
    """Return the dtype that ``"auto"`` stands for on this machine; any other name unchanged.

    ``"auto"`` is bfloat16 where the device multiplies it in hardware (a GPU of compute capability 8 or more;
    a processor with AVX512-BF16 or AMX), else float32.

    Args:
        dtype: ``"auto"``, ``"bfloat16"``, ``"float16"`` or ``"float32"``.
        device: ``"cuda"`` or ``"cpu"``; None means what this machine has.

    Raises:
        ModelError: Another name, or float16 on a processor, where its range overflows and nothing is gained.
    """
    kind = (device or device_kind()).split(":")[0]
    if dtype == "auto":
        return "bfloat16" if _has_bfloat16(kind) else "float32"
    if dtype not in DTYPES:
        raise ModelError("unknown dtype", got=repr(dtype), expected=", ".join(("auto", *DTYPES)))
    if dtype == "float16" and kind == "cpu":
        raise ModelError("float16 needs a GPU", got="float16 on a processor", fix="write dtype: auto")
    return dtype


def _has_bfloat16(kind: str) -> bool:
    if kind == "cpu":
        return processor_has_bfloat16()
    import torch

    return torch.cuda.get_device_capability()[0] >= 8
