"""A session leaves nothing behind, however it ends; Ctrl-C and SIGKILL are in the integration tests."""

import pytest

from tests.session_ends import end_orderly, end_suddenly


@pytest.mark.parametrize("mode", ["return", "raise", "SIGTERM", "SIGHUP"])
def test_nothing_is_left_after_an_orderly_end(mode):
    end_orderly(mode)


def test_nothing_is_left_after_a_sudden_exit():
    end_suddenly("exit")
