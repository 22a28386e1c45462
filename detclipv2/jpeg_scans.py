"""JPEG scans: how often a JPEG file makes its decoder go through the whole image.

A progressive JPEG refines the image scan by scan, usually in about ten. A scan that changes nothing takes some 100 bytes, and
the decoder as long as any other, so that a small file keeps it busy for minutes. Markers: ITU-T T.81, annex B.
"""

import re

_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD8, 0xD9, 0x01
# In coded data 0xFF is followed by 0x00, or by one of the restart markers 0xD0 to 0xD7; before a marker it may be repeated.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)


def has_more_scans(jpeg: bytes, limit: int) -> bool:
    """Whether the first image of a JPEG file has more than ``limit`` scans."""
    return jpeg.count(b"\xff\xda") > limit and count_scans(jpeg) > limit


def count_scans(jpeg: bytes) -> int:
    """Scans of the first image of a JPEG file; those of a thumbnail, of further images and in other data are not counted."""
    num_scans, position = 0, 2
    while (marker := _MARKER.search(jpeg, position)) is not None and marker[1][0] != _END_OF_IMAGE:
        position = marker.end()
        if marker[1][0] not in (_START_OF_IMAGE, _TEMPORARY):  # all others are followed by their length
            position += int.from_bytes(jpeg[position : position + 2])
            num_scans += marker[1][0] == _START_OF_SCAN
    return num_scans
