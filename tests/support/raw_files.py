"""A camera's RAW file (a DNG) by hand: an undeveloped mosaic, and a preview beside it where there is one."""

import struct
from io import BytesIO

import numpy as np

_BYTE, _TEXT, _SHORT, _LONG, _FRACTION = 1, 2, 3, 4, 10  # Types of the values in TIFF files.
CFA = 32803  # The tag "photometric" with the value of a colour mosaic.


def make_dng(width=640, height=480, turn=1, preview=None, date="2001:05:17 14:00:00"):
    """Bytes of a DNG: white in the left quarter of the sensor, black elsewhere.

    turn: its EXIF orientation; preview: a picture kept beside as JPEG, as it is.
    """
    mosaic = np.full((height, width), 64, "<u2")
    mosaic[:, : width // 4] = 65000
    out = bytearray(b"II*\0\0\0\0\0")

    def put(data):
        place = len(out)
        out.extend(data + b"\0" * (len(data) % 2))
        return place

    def put_tags(*tags):
        rows = [
            struct.pack("<HHI", tag, kind, count)
            + (value if isinstance(value, bytes) else struct.pack("<I", value)).ljust(4, b"\0")
            for tag, kind, count, value in sorted(tags)
        ]
        return put(struct.pack("<H", len(rows)) + b"".join(rows) + b"\0" * 4)

    name, when = put(b"Test\0"), put(date.encode() + b"\0")
    identity = put(struct.pack("<18i", *(part for one in (1, 0, 0, 0, 1, 0, 0, 0, 1) for part in (one, 1))))
    raw = [
        *((0x00FE, _LONG, 1, 0), (0x0100, _LONG, 1, width), (0x0101, _LONG, 1, height), (0x0102, _SHORT, 1, 16)),
        *((0x0103, _SHORT, 1, 1), (0x0106, _SHORT, 1, CFA), (0x0111, _LONG, 1, put(mosaic.tobytes()))),
        *((0x0115, _SHORT, 1, 1), (0x0116, _LONG, 1, height), (0x0117, _LONG, 1, mosaic.nbytes)),
        *((0x828D, _SHORT, 2, struct.pack("<2H", 2, 2)), (0x828E, _BYTE, 4, bytes((0, 1, 1, 2)))),
        (0xC61D, _LONG, 1, 65535),
    ]
    camera = [
        *((0x010F, _TEXT, 5, name), (0x0110, _TEXT, 5, name), (0x0112, _SHORT, 1, turn), (0x0132, _TEXT, 20, when)),
        *((0xC612, _BYTE, 4, bytes((1, 4, 0, 0))), (0xC614, _TEXT, 5, name), (0xC621, _FRACTION, 9, identity)),
        (0xC65A, _SHORT, 1, 21),
    ]
    if preview is None:
        first = put_tags(*raw, *camera)
    else:
        stream = BytesIO()
        preview.save(stream, "JPEG", quality=95, subsampling=0)
        data = stream.getvalue()
        shown = [
            *((0x00FE, _LONG, 1, 1), (0x0100, _LONG, 1, preview.width), (0x0101, _LONG, 1, preview.height)),
            *((0x0102, _SHORT, 1, 8), (0x0103, _SHORT, 1, 7), (0x0106, _SHORT, 1, 6), (0x0111, _LONG, 1, put(data))),
            *((0x0115, _SHORT, 1, 3), (0x0116, _LONG, 1, preview.height), (0x0117, _LONG, 1, len(data))),
            (0x014A, _LONG, 1, put_tags(*raw)),
        ]
        first = put_tags(*shown, *camera)
    out[4:8] = struct.pack("<I", first)
    return bytes(out)
