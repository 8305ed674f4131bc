import pickle

import pytest

from models import precision
from models.errors import ModelError
from models.precision import resolve_device, resolve_dtype


@pytest.mark.parametrize(("has", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_follows_the_hardware(monkeypatch, has, expected):
    monkeypatch.setattr(precision, "_has_bfloat16", lambda kind: has)
    assert resolve_dtype("auto", "cpu") == expected
    assert resolve_dtype("float32", "cpu") == "float32"


def test_refusals(monkeypatch):
    monkeypatch.setattr(precision, "device_kind", lambda: "cpu")
    for call in (
        lambda: resolve_dtype("int8"),
        lambda: resolve_dtype("float16", "cpu"),
        lambda: resolve_device("cuda"),
        lambda: resolve_device("tpu"),
    ):
        with pytest.raises(ModelError):
            call()
    assert resolve_device("auto") == "cpu"


def test_error_survives_pickling():
    error = ModelError("what", "where", got="got", expected="expected", fix="fix")
    assert (
        str(pickle.loads(pickle.dumps(error)))
        == str(error)
        == "where: what\n  got: got\n  expected: expected\n  fix: fix"
    )
