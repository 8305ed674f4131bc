"""DeepSpeed's own configuration: what follows from a recipe, and what its user adds, checked before anything starts."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from pydantic import JsonValue, ValidationError

from cluster.errors import UserError
from pipelines.train.config import TrainConfig

SHOWN_KEYS = 6


def deepspeed_config(config: TrainConfig) -> dict[str, JsonValue]:
    """Return DeepSpeed's own configuration: the user's settings, and those that follow from the recipe."""
    zero = section(config.deepspeed, "zero_optimization")
    if config.offload == "optimizer":
        zero = {"offload_optimizer": {"device": "cpu", "pin_memory": False}, **zero}
    return {
        "steps_per_print": 2**31,
        # Its own optimizer for the processor would be compiled for a minute first; torch's does as well.
        **({"zero_force_ds_cpu_optimizer": False} if "offload_optimizer" in zero else {}),
        **config.deepspeed,
        "zero_optimization": {"overlap_comm": False, **zero, "stage": config.zero_stage},
        # DeepSpeed only counts with these two: batches are cut by the plan.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_gradient_norm,
        # Its own AdamW would be compiled for two minutes first.
        "zero_allow_untested_optimizer": True,
    }


def section(settings: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    """Return a mapping within DeepSpeed's settings; empty where there is none."""
    value = settings.get(key, {})
    assert isinstance(value, dict)
    return value


def check_deepspeed(config: TrainConfig) -> None:
    """Have DeepSpeed read the settings that a recipe adds; without any nothing is imported.

    Raises:
        UserError: It refuses one, or never asks for one: a name that it does not know.
    """
    if not config.deepspeed:
        return
    settings = _Noted(deepspeed_config(config))
    with _without_warnings():
        from deepspeed.runtime.config import DeepSpeedConfig

        try:
            DeepSpeedConfig(settings)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise _refused(f"{error.title}: {key}: {first['msg']}") from error
        except Exception as error:  # DeepSpeed raises whatever its reading ran into.
            raise _refused(f"{type(error).__name__}: {error}") from error
    unknown = sorted(set(config.deepspeed) - settings.asked)
    if unknown:
        known = sorted(settings.asked)
        near = get_close_matches(unknown[0], known, SHOWN_KEYS) or known
        raise UserError(
            "DeepSpeed has no such setting",
            where="train.deepspeed",
            got=unknown[0],
            expected=", ".join(near),
            fix="write it as DeepSpeed's documentation does, or remove it",
        )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep from the terminal what DeepSpeed says of this machine, which need not be one that trains."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _refused(got: str) -> UserError:
    return UserError(
        "DeepSpeed refuses the settings",
        where="train.deepspeed",
        got=got,
        fix="write them as DeepSpeed's documentation does",
    )


class _Noted(dict[str, Any]):
    """A mapping that notes which keys it is asked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.asked: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def keys(self) -> Any:
        return _Keys(self)


class _Keys:
    def __init__(self, noted: _Noted) -> None:
        self._noted = noted

    def __contains__(self, key: object) -> bool:
        return key in self._noted

    def __iter__(self) -> Iterator[str]:
        return iter(self._noted)
