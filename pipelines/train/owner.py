"""Whose a checkpoint is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import UserError


@dataclass(frozen=True)
class Owner:
    """The training that a checkpoint belongs to.

    Args:
        fingerprint: Of its artifact.
        settings: Of the recipe, under `train`, as JSON.
    """

    fingerprint: str
    settings: Mapping[str, Any]


def check_owner(found: Owner, wanted: Owner, where: str) -> None:
    """Refuse a checkpoint of another training.

    Raises:
        UserError: It is; names the settings that differ.
    """
    if found.fingerprint == wanted.fingerprint:
        return
    keys = sorted(found.settings.keys() | wanted.settings.keys())
    absent = "absent"
    differing = [
        (key, found.settings.get(key, absent), wanted.settings.get(key, absent))
        for key in keys
        if found.settings.get(key, absent) != wanted.settings.get(key, absent)
    ]
    raise UserError(
        "the checkpoint belongs to another recipe",
        where=where,
        got=", ".join(f"train.{key} {theirs}" for key, theirs, _ in differing)
        or f"another model, plan or version of a library (training {found.fingerprint})",
        expected=", ".join(f"train.{key} {ours}" for key, _, ours in differing)
        or f"training {wanted.fingerprint}",
        fix="remove the folder to train anew, or run the recipe that wrote it",
    )
