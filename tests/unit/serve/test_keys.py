"""API keys: only hashes are stored, and only the owner may read them."""

from pathlib import Path

import pytest

from cluster.errors import UserError
from serve.keys import create_key, is_valid, load_keys, revoke_key


def test_a_made_key_is_valid_and_its_hash_alone_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = create_key(path, "search-app")
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    digests = load_keys(path)
    assert is_valid(f"Bearer {key}", digests)
    assert is_valid(f"bearer {key}", digests)
    for wrong in (
        None,
        "",
        key,
        "Bearer",
        "Bearer ",
        f"Basic {key}",
        f"Bearer {key}x",
        f"Bearer {digests[0]}",
    ):
        assert not is_valid(wrong, digests)
    assert not is_valid(f"Bearer {key}", ())


def test_keys_are_revoked_by_name(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    first, second = create_key(path, "a"), create_key(path, "b")
    revoke_key(path, "a")
    assert not is_valid(f"Bearer {first}", load_keys(path))
    assert is_valid(f"Bearer {second}", load_keys(path))
    with pytest.raises(UserError, match="no key of this name"):
        revoke_key(path, "a")


def test_a_name_is_used_once_and_is_plain(tmp_path: Path) -> None:
    create_key(tmp_path / "keys", "a")
    with pytest.raises(UserError, match="has a key"):
        create_key(tmp_path / "keys", "a")
    for name in ("", "a b", "a\nb", "x" * 65):
        with pytest.raises(UserError, match="unusable name"):
            create_key(tmp_path / "keys", name)


def test_an_open_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    create_key(path, "a")
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        load_keys(path)


def test_absent_empty_and_malformed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with pytest.raises(UserError, match="no such keys file"):
        load_keys(path)
    path.touch(mode=0o600)
    path.chmod(0o600)
    with pytest.raises(UserError, match="no API key"):
        load_keys(path)
    path.write_text("stope-plain-key\n")
    with pytest.raises(UserError, match="line 1") as caught:
        load_keys(path)
    assert "stope-plain-key" not in str(caught.value)
