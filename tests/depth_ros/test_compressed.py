"""JPEG and PNG against the pixels that went in, in the formats that image_transport and drivers write."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from depth_ros import compressed, images
from depth_ros.types import InputError


def png(pixels):
    """The PNG of grey (h, w) or RGB (h, w, 3) pixels of 8 or 16 bits, written from its specification."""
    height, width = pixels.shape[:2]
    kind = {2: 0, 3: 2}[pixels.ndim]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return np.frombuffer(data, np.uint8)


def jpeg(rgb, quality=95):
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].reshape(-1)


@pytest.fixture
def rgb():
    """A red, a green, a blue and a grey quarter: what swapped channels or turned images would not survive."""
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24], image[16:, 24:] = (200, 30, 10), (20, 180, 40), (15, 25, 220), (90, 90, 90)
    return image


@pytest.mark.parametrize("label", ["rgb8; jpeg compressed bgr8", "bgr8; jpeg compressed bgr8", "jpeg", "jpg", ""])
def test_a_jpeg_is_what_went_in_but_for_its_losses(rgb, label):
    decoded = compressed.decode(label, jpeg(rgb), (48, 32))
    assert decoded.shape == (32, 48, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    middles = decoded[8::16, 12::24]
    np.testing.assert_allclose(middles, rgb[8::16, 12::24], atol=6)


@pytest.mark.parametrize("label", ["rgb8; png compressed bgr8", "png", "bgr8; png compressed bgr8"])
def test_a_png_is_exactly_what_went_in(rgb, label):
    np.testing.assert_array_equal(compressed.decode(label, png(rgb), (48, 32)), rgb)


def test_red_and_blue_that_image_transport_swapped_are_swapped_back(rgb):
    np.testing.assert_array_equal(compressed.decode("rgb8; png compressed rgb8", png(rgb[..., ::-1])), rgb)


def test_an_alpha_channel_is_left_out(rgb):
    data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA))[1].reshape(-1)
    np.testing.assert_array_equal(compressed.decode("bgra8; png compressed bgr8", data), rgb)


@pytest.mark.parametrize("label", ["mono8; png compressed ", "mono8; png compressed mono8", "png", "8UC1; png compressed "])
def test_grey_is_spread_over_the_channels(label):
    grey = np.arange(48 * 32, dtype=np.uint16).reshape(32, 48).astype(np.uint8)
    np.testing.assert_array_equal(compressed.decode(label, png(grey)), np.repeat(grey[..., None], 3, axis=2))


def test_16_bits_become_8_by_their_high_byte_as_raw_mono16_does(rgb):
    deep = np.arange(48 * 32, dtype=np.uint16).reshape(32, 48) * 42
    raw = images.decode("mono16", 48, 32, 96, deep.view(np.uint8).reshape(-1), is_bigendian=False)
    np.testing.assert_array_equal(compressed.decode("mono16; png compressed ", png(deep)), raw)
    np.testing.assert_array_equal(raw[..., 0], deep // 256)
    np.testing.assert_array_equal(compressed.decode("rgb16; png compressed bgr16", png(rgb.astype(np.uint16) * 256 + 77)), rgb)


@pytest.mark.parametrize(("encoding", "dtype"), [("bayer_rggb8", np.uint8), ("bayer_rggb16", np.uint16)])
def test_a_compressed_mosaic_is_interpolated_like_a_raw_one(encoding, dtype):
    mosaic = np.zeros((32, 48), np.uint8)
    mosaic[0::2, 0::2], mosaic[0::2, 1::2], mosaic[1::2, 0::2], mosaic[1::2, 1::2] = 200, 100, 100, 50
    decoded = compressed.decode(f"{encoding}; png compressed ", png(mosaic.astype(dtype) * (256 if dtype == np.uint16 else 1)))
    assert (decoded[4:-4, 4:-4] == (200, 100, 50)).all()


def test_the_camera_s_orientation_tag_does_not_turn_the_image(rgb):
    tag = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"  # turn by 90 degrees
    body = b"Exif\0\0" + tag
    data = jpeg(rgb).tobytes()
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert compressed.decode("jpeg", np.frombuffer(turned, np.uint8), (48, 32)).shape == (32, 48, 3)


def with_thumbnail(jpeg):
    """As cameras store one: a JPEG of its own in an APP1 segment before the image's frame header."""
    thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    return jpeg[:2] + b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail + jpeg[2:]


def test_the_end_of_a_thumbnail_is_not_the_images(rgb):
    whole = with_thumbnail(cv2.imencode(".jpg", rgb)[1].tobytes())
    for data, cut_off in ((whole, False), (whole + bytes(5000), False), (whole[: 2 * len(whole) // 3], True)):
        assert compressed.is_cut_off(np.frombuffer(data, np.uint8)) == cut_off


def test_padding_after_the_end_of_a_jpeg_is_allowed(rgb):
    assert compressed.decode("jpeg", np.append(jpeg(rgb), np.zeros(500, np.uint8)), (48, 32)).shape == (32, 48, 3)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97])
@pytest.mark.parametrize("encode", [jpeg, png])
def test_data_that_is_cut_off_is_refused(rgb, encode, share):
    data = encode(rgb)
    with pytest.raises(InputError, match=r"expected a JPEG or PNG|end of a JPEG or PNG"):
        compressed.decode("jpeg", data[: round(len(data) * share)])


def test_a_png_with_a_flipped_bit_is_refused(rgb):
    data = png(rgb).copy()
    data[-30] ^= 4
    with pytest.raises(InputError, match="cannot be decoded"):
        compressed.decode("png", data)


@pytest.mark.parametrize(
    ("label", "data", "says"),
    [
        ("jpeg", b"", "is empty"),
        ("h264", b"\0\0\0\1gB\0\n", "'h264' starts with 00 00 00 01"),
        ("rgb8; tiff compressed ", b"II*\0\x08\0\0\0", "starts with 49 49 2a 00"),
        ("theora", b"OggS\0\2", "expected a JPEG or PNG"),
        ("jpeg", b"\xff\xd8\xff\xd9", "expected a JPEG or PNG"),
        ("jpeg", b"\xff\xd8\xff\xff\xff\xff\xff", "expected a JPEG or PNG"),
    ],
)
def test_what_is_no_image_is_named(label, data, says):
    with pytest.raises(InputError, match=says):
        compressed.decode(label, np.frombuffer(data, np.uint8))


def test_the_reason_is_one_line_whatever_the_label_holds():
    with pytest.raises(InputError) as reason:
        compressed.decode("jpeg\n" * 1000, np.zeros(4, np.uint8))
    assert "\n" not in str(reason.value)
    assert len(str(reason.value)) < 250


def test_a_depth_image_is_not_taken_for_a_camera_s():
    data = np.concatenate([np.zeros(12, np.uint8), png(np.ones((4, 4), np.uint16))])
    with pytest.raises(InputError, match="is a depth image"):
        compressed.decode("16UC1; compressedDepth png", data)


@pytest.mark.parametrize("encode", [jpeg, png])
def test_the_size_is_compared_with_the_camera_s(rgb, encode):
    with pytest.raises(InputError, match="48x32, but its camera_info says 64x32"):
        compressed.decode("jpeg", encode(rgb), (64, 32))


def claiming(width, height, data):
    """The PNG with another size in its header, and a checksum that fits."""
    changed = data.copy()
    changed[16:24] = np.frombuffer(struct.pack(">II", width, height), np.uint8)
    changed[29:33] = np.frombuffer(struct.pack(">I", zlib.crc32(changed[12:29].tobytes())), np.uint8)
    return changed


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 32)])
def test_a_header_that_claims_an_absurd_size_is_refused_before_decoding(rgb, size, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="expected 1 to"):
        compressed.decode("png", claiming(*size, png(rgb)))
    with pytest.raises(InputError, match="camera_info says"):
        compressed.decode("png", claiming(*size, png(rgb)), (48, 32))


@pytest.mark.parametrize("encode", [png, jpeg])
def test_a_few_bytes_do_not_become_a_large_image_though_the_camera_info_agrees(rgb, encode, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = encode(rgb).copy()
    if encode is png:
        data = claiming(11_000, 11_000, data)
    else:
        frame = data.tobytes().index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = np.frombuffer(struct.pack(">HH", 11_000, 11_000), np.uint8)
    with pytest.raises(
        InputError, match=rf"of {data.size} bytes states a size of 11000x11000; expected 1 to {data.size * 8256} "
    ):
        compressed.decode("png", data, (11_000, 11_000))


def test_an_image_of_one_colour_is_decoded_however_well_it_was_compressed():
    for data in (png(np.zeros((2000, 2000), np.uint8)), jpeg(np.zeros((2000, 2000, 3), np.uint8), 1)):
        assert compressed.decode("png", data, (2000, 2000)).shape == (2000, 2000, 3)
    packed = cv2.imencode(".png", np.zeros((2000, 2000), np.uint8), [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9])[
        1
    ]
    assert compressed.decode("png", packed.reshape(-1), (2000, 2000)).shape == (2000, 2000, 3)


def test_a_chunk_that_claims_gigabytes_is_refused_before_decoding(rgb, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    data = png(rgb).copy()
    data[33:37] = (0x7F, 0, 0, 0)  # the length of the first chunk after the header's
    with pytest.raises(InputError, match="is cut off"):
        compressed.decode("png", data)


def test_a_header_that_lies_about_its_data_is_refused(rgb):
    with pytest.raises(InputError, match="cannot be decoded"):
        compressed.decode("png", claiming(48, 64, png(rgb)))


def test_random_damage_gives_an_image_of_the_right_size_or_a_reason(rgb):
    rng = np.random.default_rng(0)
    outcomes = set()
    for data in (jpeg(rgb), png(rgb)):
        for _ in range(300):
            damaged = data.copy()
            damaged[rng.integers(0, data.size, 4)] = rng.integers(0, 256, 4)
            damaged = damaged[: rng.integers(1, data.size + 1)] if rng.random() < 0.3 else damaged
            try:
                outcomes.add(compressed.decode("jpeg", damaged, (48, 32)).shape)
            except InputError as reason:
                outcomes.add("lines" if "\n" in str(reason) else "refused")
    assert outcomes == {(32, 48, 3), "refused"}
