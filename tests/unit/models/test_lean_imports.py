import subprocess
import sys

import pytest

from models.lean_imports import absent

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
