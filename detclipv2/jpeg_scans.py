"""JPEG scans: how often a JPEG file makes its decoder go through the whole image.

A progressive JPEG refines the image scan by scan, usually in about ten. A scan that changes nothing takes some 100 bytes, and
the decoder as long as any other, so that a small file keeps it busy for minutes. Markers: ITU-T T.81, annex B.
"""

import re

_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE, _TEMPORARY = 0xDA, 0xD8, 0xD9, 0x01
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)
_OTHER_FRAMES = (0xC0, 0xC1, 0xC3, 0xC5, 0xC7, 0xC9, 0xCB, 0xCD, 0xCF)
# In coded data 0xFF is followed by 0x00, or by one of the restart markers 0xD0 to 0xD7; before a marker it may be repeated.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)


def count_scans(jpeg: bytes) -> int:
    """Scans of the first image of a JPEG file; those of a thumbnail, of further images and in other data are not counted.

    After one scan that has all colours of an image which is not progressive decoders look for no other.
    """
    num_scans, position, num_colours, is_progressive = 0, 2, 0, False
    while (match := _MARKER.search(jpeg, position)) is not None and (marker := match[1][0]) != _END_OF_IMAGE:
        position = match.end()
        if marker in (_START_OF_IMAGE, _TEMPORARY):  # all others are followed by their length
            continue
        length, content = int.from_bytes(jpeg[position : position + 2]), position + 2
        if marker in _PROGRESSIVE_FRAMES or marker in _OTHER_FRAMES:
            is_progressive |= marker in _PROGRESSIVE_FRAMES
            num_colours = int.from_bytes(jpeg[content + 5 : content + 6])
        elif marker == _START_OF_SCAN:
            num_scans += 1
            if num_scans == 1 and not is_progressive and jpeg[content : content + 1] >= bytes([num_colours]):
                return 1
        position += length
    return num_scans
