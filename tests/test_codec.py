import numpy as np
import pytest

from flairsearch.codec import make_codec
from flairsearch.errors import StoreError
from flairsearch.records import Encoded

P, D = 6, 10


def random_local(count=5, seed=0):
    return np.random.default_rng(seed).normal(3, 2, (count, P, D))


def normed(local):
    """float64 LayerNorm without gain: x, r, s with local = s (x + r)."""
    mean = local.mean(-1, keepdims=True)
    scale = np.sqrt(local.var(-1, keepdims=True) + 1e-5)
    columns = ((local - mean) / scale, (mean / scale)[..., 0], scale[..., 0])
    return Encoded(np.ones((len(local), D), np.float16), *(column.astype(np.float16) for column in columns))


def test_fp16_gives_every_bit_back():
    encoded, codec = normed(random_local()), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    assert rows.dtype == np.uint8
    assert rows.shape == (5, codec.stride) == (5, 2 * P * D + 4 * P)
    shift, scale = codec.decode_moments(rows)
    for found, expected in ((codec.decode(rows), encoded.tokens), (shift, encoded.shift), (scale, encoded.scale)):
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))


def test_fp16_keeps_what_the_local_token_needs():
    local = random_local()
    codec = make_codec("fp16", P, D)
    rows = codec.encode(normed(local))
    shift, scale = (moment.astype(np.float64)[..., None] for moment in codec.decode_moments(rows))
    again = scale * (codec.decode(rows).astype(np.float64) + shift)
    np.testing.assert_allclose(again, local, atol=3 * 2**-11 * 9)  # three roundings to 11 bits of numbers below 9


def test_rows_are_little_endian_and_tokens_come_first():
    tokens = np.zeros((1, P, D), np.float16)
    tokens[0, 0, 1] = 1.0
    encoded = Encoded(tokens[:, 0], tokens, np.full((1, P), 2, np.float16), np.full((1, P), -2, np.float16))
    row = make_codec("fp16", P, D).encode(encoded)[0].tobytes()
    assert row[:4] == b"\x00\x00\x00\x3c"
    assert row[2 * P * D :] == b"\x00\x40" * P + b"\x00\xc0" * P


def test_one_view_of_a_row_is_that_row():
    encoded, codec = normed(random_local(9)), make_codec("fp16", P, D)
    rows = codec.encode(encoded)
    np.testing.assert_array_equal(codec.decode(rows[[7, 2]]), encoded.tokens[[7, 2]])


def test_an_unknown_codec_is_named():
    with pytest.raises(StoreError, match="no token codec named 'int8'"):
        make_codec("int8", P, D)
