"""What a training has to do, as plain numbers."""

from dataclasses import dataclass

from pipelines.cost.shape import ModelShape
from pipelines.cost.texts import Texts


@dataclass(frozen=True)
class TrainWork:
    """Fine-tune a model.

    Args:
        shape: The model.
        dtype: Of its products; weights, gradients and the optimizer's state are float32.
        texts: What all steps pass through the model, epochs counted.
        num_steps: Optimizer steps.
        num_ranks: Workers.
        zero_stage: What the ranks share.
        is_checkpointed: Whether activations are computed again in the backward pass.
        num_checkpoints: How often the state is written.
        largest_batch: Texts of the largest global batch; empty: those of the mean step.
        adapter_parameters: Weights of adapters that are trained in place of the model's; 0: the model's are.
        is_offloaded: Whether the optimizer's state is in the host's memory.
        chunk: Texts of one pass under GradCache; 0: a rank's share of the batch is one pass.
    """

    shape: ModelShape
    dtype: str
    texts: tuple[Texts, ...]
    num_steps: int
    num_ranks: int
    zero_stage: int
    is_checkpointed: bool
    num_checkpoints: int
    largest_batch: tuple[Texts, ...] = ()
    adapter_parameters: int = 0
    is_offloaded: bool = False
    chunk: int = 0

    @property
    def trained_parameters(self) -> int:
        """Weights with a gradient."""
        return self.adapter_parameters or self.shape.num_parameters
