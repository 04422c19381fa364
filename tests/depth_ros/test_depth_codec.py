"""16-bit depth against REP 118 in words, and compressed depth against a decoder written from the C++ plugin's formula."""

import struct
import zlib

import numpy as np
import pytest

from depth_ros import depth_codec
from depth_ros.types import InputError


def plain_png(data):
    """Values (h, w) of a 16-bit grey PNG, read by its specification (RFC 2083): all five row filters."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, stream = 8, b""
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        at += 12 + length
        if name == b"IHDR":
            width, height, depth, kind = struct.unpack(">IIBB", content[:10])
            assert (depth, kind) == (16, 0)
        stream += content if name == b"IDAT" else b""
    lines = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(height, 1 + 2 * width).astype(int)
    above = np.zeros(2 * width + 2, int)
    rows = []
    for kind, *line in lines.tolist():
        row = [0, 0]  # the pixel before the first
        for i, value in enumerate(line):
            a, b, c = row[i], above[i + 2], above[i]
            p = a + b - c
            paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            row.append((value + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        above = row
        rows.append(row[2:])
    return np.array(rows, np.uint8).view(">u2").astype(np.uint16)


def plugin_decode(label, data):
    """What compressed_depth_image_transport makes of a message: decodeCompressedDepthImage of its codec.cpp, in words.

    The encoding stands before the semicolon. The first 12 bytes are an int32 and the floats a and b. A PNG of 16 bits follows:
    for a 32-bit encoding 0 is NaN and any other value q is the depth a / (q - b); for a 16-bit one the values are the image.
    """
    encoding, rest = label.split(";")
    assert rest in (" compressedDepth png", " compressedDepth")
    kind, a, b = struct.unpack("<iff", data[:12])
    assert kind == 0
    values = plain_png(data[12:])
    if encoding == "16UC1":
        return values
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values == 0, np.nan, np.float32(a) / (values.astype(np.float32) - np.float32(b)))


def image(*values):
    return np.array([values], np.float32)


def test_millimetres_by_hand():
    found = depth_codec.millimetres(image(1.2344, 1.2346, 65.535, 65.536, 0.0002, 80.0, np.nan, np.inf, -np.inf, -1.0, 0.0))
    assert found.tolist() == [[1234, 1235, 65535, 0, 1, 0, 0, 0, 0, 0, 0]]
    assert found.dtype == np.uint16


def test_every_whole_millimetre_survives():
    whole = np.arange(65536, dtype=np.uint16)[None]
    np.testing.assert_array_equal(depth_codec.millimetres((whole / 1000).astype(np.float32)), whole)


def test_the_header_holds_the_plugin_s_parameters():
    data = depth_codec.compress(image(1.0, 2.0), "32FC1", 10.0).tobytes()
    # a = 100 (100 + 1), b = 1 - a / 10
    assert struct.unpack("<iff", data[:12]) == (0, 10100.0, -1009.0)
    # q = a / depth + b
    assert plain_png(data[12:]).tolist() == [[10100 - 1009, 5050 - 1009]]


def test_float_depth_comes_back_within_half_a_step_of_inverse_depth():
    rng = np.random.default_rng(0)
    depth = np.exp(rng.uniform(np.log(0.16), np.log(99.0), (20, 50))).astype(np.float32)
    decoded = plugin_decode("32FC1; compressedDepth png", depth_codec.compress(depth, "32FC1").tobytes())
    error = np.abs(decoded - depth)
    assert (error <= depth**2 / 20200 * 1.02 + 1e-5 * depth).all()  # the slope is that of the far end of the step
    assert error.max() > 0.1  # as coarse as the format is: it would not be if something finer were sent


def test_what_is_not_a_depth_arrives_as_nan():
    decoded = plugin_decode(
        "32FC1; compressedDepth png",
        depth_codec.compress(image(np.nan, np.inf, 100.0, 250.0, 0.0, -3.0, 99.0, 5.0), "32FC1", 100.0).tobytes(),
    )
    np.testing.assert_allclose(decoded, image(*[np.nan] * 6, 99.0, 5.0), rtol=0.01)


def test_what_is_too_near_for_16_bits_takes_the_nearest_depth_they_hold():
    # The largest q, 65535, is a depth of 10100 / (65535 + 100) for 100 m; the plugin's own encoder would wrap round.
    decoded = plugin_decode("32FC1; compressedDepth png", depth_codec.compress(image(0.01, 0.15), "32FC1", 100.0).tobytes())
    np.testing.assert_allclose(decoded, 10100 / 65635, rtol=1e-4)


def test_millimetres_are_compressed_without_loss():
    rng = np.random.default_rng(1)
    depth = rng.uniform(0.1, 90, (16, 24)).astype(np.float32)
    depth[3, 4], depth[5, 6] = np.nan, np.inf
    decoded = plugin_decode("16UC1; compressedDepth png", depth_codec.compress(depth, "16UC1").tobytes())
    expected = [[0 if not z < 65.5355 else round(float(z) * 1000) for z in row] for row in depth]
    assert np.abs(decoded.astype(int) - expected).max() <= 1  # halves, in float32
    assert (decoded[3, 4], decoded[5, 6]) == (0, 0)


def test_a_smooth_image_becomes_small():
    rows = np.linspace(2, 60, 120, dtype=np.float32)[:, None] * np.ones((1, 400), np.float32)
    assert depth_codec.compress(rows, "32FC1").size < rows.nbytes / 20


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_input_is_left_alone_and_may_be_any_view(encoding):
    depth = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    before = depth.copy()
    turned = depth_codec.compress(depth.T[::-1], encoding).tobytes()
    decoded = plugin_decode(f"{encoding}; compressedDepth png", turned)
    np.testing.assert_allclose(decoded / (1000 if encoding == "16UC1" else 1), before.T[::-1], rtol=0.002)
    np.testing.assert_array_equal(depth, before)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="'64FC1'; expected 32FC1 or 16UC1"):
        depth_codec.compress(image(1.0), "64FC1")
    for largest in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="expected a positive number"):
            depth_codec.compress(image(1.0), "32FC1", largest)
