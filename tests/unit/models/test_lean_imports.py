import os
import subprocess
import sys

import pytest
import torch

from models.lean_imports import absent, uncompiled

CODE = """
import sys
from models.lean_imports import import_transformers
import_transformers()
import transformers
assert transformers.BertModel is not None
assert not {"sklearn", "scipy"} & sys.modules.keys()
import sklearn.metrics
import_transformers()
assert sys.modules["sklearn"] is sklearn
from transformers.utils import is_scipy_available, is_sklearn_available
assert is_scipy_available() and is_sklearn_available()
"""


def test_models_are_imported_without_what_they_do_not_need_which_can_be_imported_afterwards():
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_a_module_is_absent_only_meanwhile_and_one_that_is_there_stays():
    import json

    with absent("json", "ftplib"):
        import json as again

        with pytest.raises(ImportError):
            import ftplib
    import ftplib  # noqa: F401

    assert again is json


def test_what_is_imported_meanwhile_is_not_handed_to_the_compiler(monkeypatch):
    def plain(x):
        return x

    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    with uncompiled():
        assert torch.compile(plain) is plain
    assert os.environ["TORCHDYNAMO_DISABLE"] == "0"
