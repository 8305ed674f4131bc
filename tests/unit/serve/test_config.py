"""Settings that cannot work are refused before anything starts."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from serve.config import ServeConfig


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org"])
def test_an_open_host_needs_keys(host: str) -> None:
    with pytest.raises(ValidationError, match="stope serve key"):
        ServeConfig(host=host)
    assert not ServeConfig(host=host, keys_file=Path("keys")).is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    assert ServeConfig(host=host).is_loopback


def test_a_request_fits_the_queue() -> None:
    with pytest.raises(ValidationError, match="could never be admitted"):
        ServeConfig(max_request_tokens=11, max_queued_tokens=10)
    assert ServeConfig(max_queued_tokens=10).request_token_limit == 10
    assert ServeConfig(max_queued_tokens=10**6).request_token_limit == 300_000
    assert ServeConfig(max_request_tokens=7).request_token_limit == 7


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="budget"):
        ServeConfig.model_validate({"budget": 3})
