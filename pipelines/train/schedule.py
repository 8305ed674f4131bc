"""The learning rate of each step."""


def learning_rate(step: int, num_steps: int, peak: float, warmup_ratio: float) -> float:
    """Rise linearly to ``peak`` over the first steps, then fall linearly towards 0.

    Args:
        step: From 0 to num_steps - 1.
        num_steps: Of the whole training.
        peak: The highest learning rate.
        warmup_ratio: Share of the steps that rise; 0 for none.

    Returns:
        Above 0 at every step; it would reach 0 at step ``num_steps``.
    """
    warmup = round(num_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (num_steps - step) / (num_steps - warmup)
