import os

import pytest

from cluster.environment import environment_variable


@pytest.mark.parametrize("before", [None, "before"])
def test_a_variable_is_there_meanwhile_alone(monkeypatch, before):
    name = "STOPE_TEST_MEANWHILE"
    if before:
        monkeypatch.setenv(name, before)
    with pytest.raises(ValueError, match="within"), environment_variable(name, "meanwhile"):
        assert os.environ[name] == "meanwhile"
        raise ValueError("within")
    assert os.environ.get(name) == before
