"""API keys: a file of names and SHA-256 hashes; the keys themselves are stored nowhere.

A key has 256 random bits, so that a plain hash of it cannot be inverted by guessing.
"""

import hmac
import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from cluster.errors import UserError

_LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}) (?P<digest>[0-9a-f]{64})")


def create_key(path: Path, name: str) -> str:
    """Make a key and append its hash to the file.

    Args:
        path: The keys file; made with mode 0600 if absent.
        name: Tells keys apart when one is to be revoked.

    Returns:
        The key, which cannot be shown again.

    Raises:
        UserError: The name is taken or unusable, or the file is open to others.
    """
    digests = _read(path) if path.exists() else {}
    if name in digests:
        raise UserError(
            "this name has a key", str(path), got=name, fix="choose another name or revoke the key"
        )
    key = f"stope-{secrets.token_urlsafe(32)}"
    if not _LINE.fullmatch(f"{name} {_digest(key)}"):
        raise UserError("unusable name of a key", got=repr(name), expected="1 to 64 of A-Z a-z 0-9 . _ -")
    _write(path, digests | {name: _digest(key)})
    return key


def revoke_key(path: Path, name: str) -> None:
    """Remove a key; a running server forgets it when it is started again.

    Raises:
        UserError: There is no key of that name.
    """
    digests = _read(path)
    if name not in digests:
        raise UserError("no key of this name", str(path), got=name, expected=", ".join(sorted(digests)))
    _write(path, {other: digest for other, digest in digests.items() if other != name})


def load_keys(path: Path) -> tuple[str, ...]:
    """Return the hashes of all keys.

    Raises:
        UserError: The file is absent, empty, malformed, or open to other users.
    """
    digests = _read(path)
    if not digests:
        raise UserError("no API key in this file", str(path), fix=f"stope serve key NAME --keys-file {path}")
    return tuple(digests.values())


def is_valid(authorization: str | None, digests: tuple[str, ...]) -> bool:
    """Return whether an Authorization header carries one of the keys, in a time that tells nothing.

    Args:
        authorization: The header's value, ``Bearer KEY``.
        digests: As ``load_keys`` returns them.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer":
        return False
    given = _digest(key.strip())
    # No short cut at the first match: every hash is compared.
    return sum(hmac.compare_digest(given, digest) for digest in digests) > 0


def _digest(key: str) -> str:
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError("no such keys file", str(path), fix=f"stope serve key NAME --keys-file {path}")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UserError(
            "the keys file is open to other users", str(path), got=f"mode {mode:04o}", expected="mode 0600",
            fix=f"chmod 600 {path}",
        )  # fmt: skip
    digests: dict[str, str] = {}
    for number, line in enumerate(path.read_text("ascii", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            # The line itself is not shown: it may be a key that somebody pasted here.
            raise UserError(
                "not a line of a keys file", f"{path} line {number}", expected="NAME SHA256",
                fix="remove the line; make keys with `stope serve key`",
            )  # fmt: skip
        digests[match["name"]] = match["digest"]
    return digests


def _write(path: Path, digests: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(f"{name} {digest}\n" for name, digest in digests.items())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
