"""Compressed camera images (sensor_msgs/CompressedImage) to RGB arrays: JPEG and PNG."""

from __future__ import annotations

import cv2
import numpy as np

from depth_ros import images
from depth_ros.types import InputError, UInt8Array, quoted

Size = tuple[int, int]  # width, height [px]

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the frame headers SOF0..15 of ITU-T T.81, table B.1
MAX_PIXELS = 2**27  # 134 megapixels are 400 MB
MAX_PIXELS_PER_BYTE = 8 * 1032  # zlib's best, of pixels of one bit; a JPEG has at least a bit for its 64 pixels


def decode(label: str, data: UInt8Array, size: Size | None = None) -> UInt8Array:
    """Return the RGB image (H, W, 3) in the bytes `data` (1-D), which are a JPEG or PNG; `label` is the message's format.

    The bytes say what they are; of the label, as image_transport writes it ("bayer_rggb8; png compressed "), only the encoding
    before compression counts: a Bayer mosaic is one grey channel until it is interpolated. 16 bit become 8 by their high byte,
    as in images.decode. EXIF's orientation is not applied, as the camera_info knows none. The size in the header is compared
    with `size` (the camera's) before anything is decoded, so that a lying header costs nothing.
    Raises InputError for any other format, another size, and data that is cut off or corrupt. A bit that flips inside a JPEG's
    pixels spoils them unseen: a JPEG has no checksum.
    """
    width, height = _stated_size(label, data)
    if size is not None and size != (width, height):
        raise InputError(
            f"compressed image is {width}x{height}, but its camera_info says {size[0]}x{size[1]}: "
            "publish the camera_info of this image size"
        )
    most = min(MAX_PIXELS, MAX_PIXELS_PER_BYTE * data.size)
    if not 0 < width * height <= most:
        raise InputError(
            f"compressed image of {data.size} bytes states a size of {width}x{height}; expected 1 to {most} pixels: it is corrupt"
        )
    pixels = _decoded(data)
    if pixels is None or pixels.shape[:2] != (height, width):
        raise InputError(f"{data.size} bytes of {quoted(label)} cannot be decoded; expected a whole JPEG or PNG: is it cut off?")
    return _rgb(label, pixels)


def is_cut_off(data: UInt8Array) -> bool:
    """Return whether the bytes are a JPEG or PNG without its end; some versions of OpenCV fill what is missing with grey."""
    if _is_png(data):
        return not _png_is_whole(data)
    frame = _jpeg_frame(data)  # a thumbnail before it has an end of its own; behind the true one cameras may add what they like
    return frame is not None and JPEG_END not in data[frame:].tobytes()


def _stated_size(label: str, data: UInt8Array) -> Size:
    """Width and height in the header; InputError if there is no header of a JPEG or PNG."""
    start = data[:24].tobytes()
    if "compressedDepth" in label:
        raise InputError(f"compressed image of format {quoted(label)} is a depth image; expected a camera's: check the remapping")
    size = _png_size(data) if _is_png(data) else _jpeg_size(data)
    if size is None:
        found = f"starts with {start[:8].hex(' ')}" if start else "is empty"
        raise InputError(f"compressed image of format {quoted(label)} {found}; expected a JPEG or PNG")
    if is_cut_off(data):
        raise InputError(
            f"compressed image of format {quoted(label)} is cut off: {data.size} bytes without the end of a JPEG or PNG"
        )
    return size


def _is_png(data: UInt8Array) -> bool:
    start = data[:16].tobytes()
    return start.startswith(PNG_START) and start[12:] == b"IHDR"


def _png_size(data: UInt8Array) -> Size | None:
    """Width and height in the first chunk (RFC 2083, section 4.1.1)."""
    return (_big_endian(data[16:20]), _big_endian(data[20:24])) if len(data) >= 24 else None


def _png_is_whole(data: UInt8Array) -> bool:
    """Whether its chunks follow each other to the last one (RFC 2083): OpenCV allocates what a chunk's length says, 2 GB too."""
    at = len(PNG_START)
    while at + 12 <= len(data):
        length, name = _big_endian(data[at : at + 4]), data[at + 4 : at + 8].tobytes()
        at += 12 + length
        if name == b"IEND":
            return at <= len(data)
    return False


def _jpeg_size(data: UInt8Array) -> Size | None:
    """Width and height in the frame header (ITU-T T.81, section B.2.2)."""
    at = _jpeg_frame(data)
    return None if at is None else (_big_endian(data[at + 7 : at + 9]), _big_endian(data[at + 5 : at + 7]))


def _jpeg_frame(data: UInt8Array) -> int | None:
    """Where the frame header is; segments before it are skipped by their length (ITU-T T.81, annex B). None if not in a JPEG."""
    if data[: len(JPEG_START)].tobytes() != JPEG_START:
        return None
    at = len(JPEG_START) - 1
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in JPEG_SIZES:
            return at
        fill = marker == 0xFF  # any number of them may precede a marker
        at += 1 if fill else 2 + _big_endian(data[at + 2 : at + 4])
    return None


def _big_endian(data: UInt8Array) -> int:
    return int.from_bytes(data.tobytes(), "big")


def _decoded(data: UInt8Array) -> UInt8Array | None:
    """Pixels (H, W) or (H, W, channels) in OpenCV's order, None if the data is corrupt."""
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        return None
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    decoded: UInt8Array = pixels
    return decoded


def _rgb(label: str, pixels: UInt8Array) -> UInt8Array:
    """RGB of decoded pixels: the label tells a Bayer mosaic from grey, and what was compressed in RGB order in place of BGR."""
    height, width = pixels.shape[:2]
    encoding, _, how = label.partition(";")
    if pixels.ndim == 2:
        raw = encoding.strip().replace("16", "8")
        mosaic = raw if raw.startswith("bayer_") and raw in images.ENCODINGS else "mono8"
        return images.decode(mosaic, width, height, width, pixels.reshape(-1), is_bigendian=False)
    order = "rgb" if "compressed rgb" in how else "bgr"  # red and blue are swapped in such a file, as image_transport reads it
    kind = f"{order}a8" if pixels.shape[2] == 4 else f"{order}8"
    return images.decode(kind, width, height, width * pixels.shape[2], pixels.reshape(-1), is_bigendian=False)
