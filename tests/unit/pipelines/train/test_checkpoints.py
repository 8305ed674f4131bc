"""Whose checkpoint it is is asked before an engine is built."""

import json
from dataclasses import asdict

import pytest

from cluster.errors import UserError
from pipelines.train.checkpoints import restore
from pipelines.train.owner import Owner


def test_a_checkpoint_of_another_recipe_is_refused_before_anything_is_built(tmp_path):
    theirs, ours = Owner("a" * 20, {"temperature": 0.05}), Owner("b" * 20, {"temperature": 0.06})
    note = {"ranks": 2, "owner": asdict(theirs), "history": {"steps": [], "evaluations": []}}
    (tmp_path / "training.json").write_text(json.dumps(note))
    with pytest.raises(UserError, match=r"another recipe(.|\n)*temperature 0\.05(.|\n)*temperature 0\.06"):
        restore(tmp_path, ours, lambda universal: pytest.fail("an engine was built"), "node")
