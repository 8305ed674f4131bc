"""Training losses, one function a file: LOSSES maps the name in a recipe to the function."""

from collections.abc import Callable

import torch

from models.losses.infonce import infonce

LOSSES: dict[str, Callable[..., torch.Tensor]] = {"infonce": infonce}
