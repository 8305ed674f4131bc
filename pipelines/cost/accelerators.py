"""What accelerators can do, by the names that Ray gives them."""

from dataclasses import dataclass
from difflib import get_close_matches

from cluster.errors import UserError


@dataclass(frozen=True)
class Accelerator:
    """One device, as its maker's data sheet has it.

    Args:
        half_tflops: Matrix products of bfloat16 or float16 with float32 sums, dense, TFLOP/s.
        float32_tflops: Products of float32 without TF32, TFLOP/s: what torch and faiss compute unless told otherwise.
        memory_gb_s: Bandwidth of its memory, GB/s.
        memory_gib: Size of its memory.
        has_bfloat16: Whether its matrix units take bfloat16; where they do not, `dtype: auto` is float32.
    """

    half_tflops: float
    float32_tflops: float
    memory_gb_s: float
    memory_gib: float
    has_bfloat16: bool = True


ACCELERATORS: dict[str, Accelerator] = {
    "V100": Accelerator(125, 15.7, 900, 16, has_bfloat16=False),
    "T4": Accelerator(65, 8.1, 320, 16, has_bfloat16=False),
    # Amazon's variant of the A10, which has 125 and 31.2.
    "A10G": Accelerator(70, 35, 600, 24),
    "L4": Accelerator(121, 30.3, 300, 24),
    "L40S": Accelerator(362, 91.6, 864, 48),
    "A100": Accelerator(312, 19.5, 1555, 40),
    "A100-40G": Accelerator(312, 19.5, 1555, 40),
    "A100-80G": Accelerator(312, 19.5, 2039, 80),
    "H20": Accelerator(148, 44, 4000, 96),
    "H100": Accelerator(989, 67, 3350, 80),
    "H200": Accelerator(989, 67, 4800, 141),
    "B200": Accelerator(2250, 75, 8000, 180),
}
"""Name, as a definition's `accelerator` has it -> the device. SXM boards where there are several; sheets that state
products with sparsity are halved."""


def find_accelerator(name: str, where: str) -> Accelerator:
    """Return an accelerator by name.

    Args:
        name: A key of ACCELERATORS, in any case.
        where: What named it, for the error.

    Raises:
        UserError: It is not known.
    """
    known = {key.lower(): accelerator for key, accelerator in ACCELERATORS.items()}
    if name.lower() in known:
        return known[name.lower()]
    near = get_close_matches(name.lower(), known, n=1)
    raise UserError(
        "no data sheet of this accelerator",
        where=where,
        got=name,
        expected=", ".join(ACCELERATORS),
        fix=f"write --accelerator {near[0].upper() if near else 'H100'}, or the one nearest to yours",
    )
