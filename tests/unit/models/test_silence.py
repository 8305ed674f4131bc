import subprocess
import sys

CODE = """
import sys
from models.silence import without_scikit_learn
without_scikit_learn()
import transformers
assert transformers.BertModel is not None
assert "sklearn" not in sys.modules
import sklearn.metrics
without_scikit_learn()
assert sys.modules["sklearn"] is sklearn
"""


def test_models_are_imported_without_scikit_learn_which_can_be_imported_afterwards():
    subprocess.run([sys.executable, "-c", CODE], check=True)
