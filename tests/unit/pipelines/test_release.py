"""What a release says of the model that a recipe trained."""

import pytest

from pipelines.recipe import Recipe
from pipelines.release import shorter_dimensions


@pytest.mark.parametrize(
    ("loss", "shorter"),
    [
        ({"name": "infonce"}, ()),
        ({"name": "matryoshka", "dimensions": [384, 128, 64]}, (64, 128)),
        (
            [
                {"name": "matryoshka", "dimensions": [256]},
                {"name": "matryoshka", "dimensions": [64, 256], "of": [{"name": "spread_out"}]},
            ],
            (64, 256),
        ),
    ],
)
def test_lengths_that_the_matryoshka_loss_trains_can_be_asked_for(loss, shorter):
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "data": {"kind": "beir", "name": "x", "path": "x"},
            "model": {"source": "model"},
            "train": {"loss": loss},
        }
    )
    assert shorter_dimensions(recipe, 384) == shorter
