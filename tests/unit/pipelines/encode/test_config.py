import pytest
from pydantic import ValidationError

from pipelines.encode.config import ChunkConfig, EncodeConfig


def test_settings_that_are_off_leave_the_identity_as_it_was():
    assert EncodeConfig().identity == {"token_budget": 4096, "precision": "float16"}
    assert EncodeConfig(dimension=64, reuse=False, chunk=ChunkConfig(tokens=32)).identity == {
        "token_budget": 4096,
        "precision": "float16",
        "dimension": 64,
        "chunk": {"tokens": 32, "overlap": 0},
        "reuse": False,
    }


def test_codes_are_made_of_float16():
    for precision in ("int8", "uint8", "binary", "ubinary"):
        assert EncodeConfig(precision=precision).float_precision == "float16"
        assert EncodeConfig(precision=precision).identity == EncodeConfig().identity
    assert EncodeConfig(precision="float32").float_precision == "float32"


def test_an_overlap_beyond_half_a_chunk_is_refused():
    assert ChunkConfig(tokens=32, overlap=16).overlap == 16
    with pytest.raises(ValidationError, match=r"chunk.overlap \(17\) exceeds half of chunk.tokens \(32\)"):
        ChunkConfig(tokens=32, overlap=17)
