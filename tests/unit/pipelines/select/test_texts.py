"""Text keys: equal exactly where Python's split and join make texts equal."""

import hashlib

import pyarrow as pa

from pipelines.select.texts import keys_of


def test_keys_fold_white_space_as_python_does():
    spaces = [chr(code) for code in range(0x11000) if chr(code).isspace()]
    assert len(spaces) > 20
    texts = ["a b", "a  b", " a b", "a b ", "ab", "A b", "", " ", "\n", *(f"a{space}b" for space in spaces)]
    texts += [f"a b{space}" for space in spaces] + ["a\u200bb", "a\u00adb"]
    got = keys_of(pa.chunked_array([texts[:5], texts[5:]]))
    folded = [" ".join(text.split()) for text in texts]
    expected = [int.from_bytes(hashlib.blake2b(t.encode(), digest_size=8).digest(), "little") for t in folded]
    assert got.tolist() == expected
    assert len(set(expected)) == len(set(folded)) < len(texts)
