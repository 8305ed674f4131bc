import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings

from models.errors import ModelError
from models.quantization import QUANTIZERS, merge_ranges, quantize, truncate, value_ranges


def unit(num_rows, dimension, seed=0):
    emb_ND = np.random.default_rng(seed).standard_normal((num_rows, dimension)).astype(np.float32)
    return emb_ND / np.linalg.norm(emb_ND, axis=1, keepdims=True)


@pytest.mark.parametrize("precision", sorted(QUANTIZERS))
@pytest.mark.parametrize("dimension", [8, 13, 64])
def test_codes_equal_those_of_sentence_transformers(precision, dimension):
    corpus_ND, others_ND = unit(300, dimension), unit(50, dimension, seed=1)
    corpus_ND[:, 3] = 0.25  # a component that never varies has no step
    others_ND[0] = 0
    others_ND[1] = -0.0
    for emb_ND in (corpus_ND, others_ND, others_ND[:0]):
        expected = quantize_embeddings(emb_ND, precision, calibration_embeddings=corpus_ND)
        codes = quantize(emb_ND, precision, value_ranges(corpus_ND))
        assert codes.dtype == expected.dtype and codes.shape == expected.shape
        np.testing.assert_array_equal(codes, expected)


def test_values_beyond_the_ranges_are_clipped():
    ranges_2D = np.array([[-1, 0], [254, 255]], np.float32)  # steps of exactly 1
    emb_ND = np.array([[-9, -0.1], [300, 256], [-1, 255], [0.9, 0.9]], np.float32)
    assert quantize(emb_ND, "uint8", ranges_2D).tolist() == [[0, 0], [255, 255], [0, 255], [1, 0]]
    assert quantize(emb_ND, "int8", ranges_2D).tolist() == [
        [-128, -128],
        [127, 127],
        [-128, 127],
        [-127, -128],
    ]


def test_the_first_component_is_the_highest_bit():
    emb_ND = np.array([[0.3, -0.1, 0.0, 0.2, -1, -1, -1, 1e-9, 0.5]], np.float32)
    assert quantize(emb_ND, "ubinary").tolist() == [[0b10010001, 0b10000000]]
    assert quantize(emb_ND, "binary").tolist() == [[0b10010001 - 128, 0]]


def test_ranges_of_parts_merge_to_those_of_the_whole():
    emb_ND = unit(101, 7)
    parts = [value_ranges(part) for part in np.array_split(emb_ND, 4)]
    naive = [
        [min(row[d] for row in emb_ND) for d in range(7)],
        [max(row[d] for row in emb_ND) for d in range(7)],
    ]
    for order in (parts, parts[::-1]):
        np.testing.assert_array_equal(merge_ranges(order), np.array(naive, np.float32))
    with pytest.raises(ModelError, match="at least one document"):
        merge_ranges([])


def test_truncation_keeps_the_first_components_at_unit_length():
    emb_ND = unit(20, 10)
    kept_ND = truncate(emb_ND, 4)
    for row, kept in zip(emb_ND, kept_ND, strict=True):
        length = sum(float(value) ** 2 for value in row[:4]) ** 0.5
        np.testing.assert_allclose(kept, [value / length for value in row[:4]], rtol=1e-6)
    np.testing.assert_allclose(truncate(emb_ND, 10), emb_ND, rtol=1e-6)
    assert truncate(np.zeros((1, 4), np.float16), 2).tolist() == [[0, 0]]
    for dimension in (0, 11):
        with pytest.raises(ModelError, match="1 to 10"):
            truncate(emb_ND, dimension)


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ModelError, match="unknown precision"):
        quantize(unit(2, 8), "int4")
    for ranges_2D in (None, np.zeros((2, 7), np.float32)):
        with pytest.raises(ModelError, match="range of every component"):
            quantize(unit(2, 8), "int8", ranges_2D)
