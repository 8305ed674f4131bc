"""Training losses, one function a file: LOSSES maps the name in a recipe to the function."""

from models.losses.batch import Loss
from models.losses.binary_cross_entropy import binary_cross_entropy
from models.losses.bixse import bixse
from models.losses.clp import clp
from models.losses.infonce import infonce
from models.losses.listwise_kl import listwise_kl
from models.losses.listwise_softmax import listwise_softmax
from models.losses.margin_mse import margin_mse
from models.losses.matryoshka import matryoshka
from models.losses.soft_labels import soft_labels
from models.losses.spread_out import spread_out

LOSSES: dict[str, Loss] = {
    "infonce": infonce,
    "clp": clp,
    "soft_labels": soft_labels,
    "margin_mse": margin_mse,
    "listwise_kl": listwise_kl,
    "bixse": bixse,
    "spread_out": spread_out,
    "listwise_softmax": listwise_softmax,
    "binary_cross_entropy": binary_cross_entropy,
    "matryoshka": matryoshka,
}
