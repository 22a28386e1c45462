"""Arrow schemas of the image-text tables, one a stage, in the order of the street.

Every stage returns its output schema plus the nullable string column ``drop_reason``; the runner splits on it once, so that
a stored ``kept.parquet`` has exactly the columns below and ``dropped.parquet`` has them with the reason.
"""

import pyarrow as pa

DROP_REASON = pa.field("drop_reason", pa.string())

# One row an image-text pair. `key` is the first 16 hex digits of sha256(url + "\0" + caption): equal pairs have equal keys.
URLS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)

# After download: the picture lies in the shard's images.tar as `<key>.jpg`; sizes are in pixels.
IMAGES = pa.schema(
    [
        *URLS,
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the bytes as the server sent them
        pa.field("phash", pa.string()),  # 64-bit perceptual hash of the stored picture, 16 hex digits
    ]
)

# After noun phrases: spans hold caption[start:end], before lower-casing and the stripping of determiners.
PHRASES = pa.schema([*IMAGES, pa.field("phrases", pa.list_(pa.string()), nullable=False)])


def with_drop_reason(schema: pa.Schema) -> pa.Schema:
    """The schema of what a stage returns: ``schema`` and, last, the nullable ``drop_reason``."""
    return schema.append(DROP_REASON)
