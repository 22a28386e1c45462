"""Arrow schemas of the image-text tables, one a stage, in the order of the pipeline.

Every stage returns its output schema plus the nullable string column ``drop_reason``; the runner splits on it once, so that
a stored ``kept.parquet`` has exactly the columns below and ``dropped.parquet`` has them with the reason.
"""

import pyarrow as pa

DROP_REASON = pa.field("drop_reason", pa.string())

# What a source of pairs gives. A caption that is not a string is dropped by reason, not refused; scores (see `SCORES`) are
# columns of numbers where there are any.
PAIRS = pa.schema([pa.field("url", pa.string()), pa.field("caption", pa.string())])

# One row an image-text pair. `key` is the first 16 hex digits of sha256(url + "\0" + caption): equal pairs have equal keys.
URLS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        # As the source tells them; null where it does not.
        pa.field("similarity", pa.float32()),  # cosine of CLIP's embeddings of image and caption
        pa.field("punsafe", pa.float32()),  # probability that the image is unsafe for work
    ]
)
SCORES = ("similarity", "punsafe")

# After download: the image lies in the shard's images.tar as `<key>.jpg`; sizes are in pixels.
IMAGES = pa.schema(
    [
        *URLS,
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("sha256", pa.string()),  # of the bytes as the server sent them
        pa.field("phash", pa.string()),  # 64-bit perceptual hash of the stored image, 16 hex digits
    ]
)

# After noun phrases: `phrases[i]`, in lower case, was read from caption[phrase_starts[i]:phrase_ends[i]], in Unicode code
# points. The two differ in nothing but case, unless the span lies in a hashtag or slug ("#RedApple", "red_apple").
PHRASES = pa.schema(
    [
        *IMAGES,
        pa.field("phrases", pa.list_(pa.string()), nullable=False),
        pa.field("phrase_starts", pa.list_(pa.int32()), nullable=False),
        pa.field("phrase_ends", pa.list_(pa.int32()), nullable=False),
    ]
)

# What of PHRASES is counted; the phrases of a pair are distinct.
MENTIONS = pa.schema([PHRASES.field("phrases")])

# Phrases that too few or too many pairs have, over all shards.
OUT_OF_BOUNDS = pa.schema(
    [pa.field("phrase", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)]
)

# How many pairs have a phrase, in some shards or over all; and how often the head of phrases is mentioned.
PHRASE_COUNTS = pa.schema(
    [
        pa.field("phrase", pa.string(), nullable=False),
        pa.field("head", pa.string(), nullable=False),  # its last word: a base noun phrase ends with its head
        pa.field("num_pairs", pa.int64(), nullable=False),
    ]
)
HEAD_COUNTS = pa.schema(
    [
        pa.field("head", pa.string(), nullable=False),
        pa.field("num_phrases", pa.int64(), nullable=False),  # distinct ones
        pa.field("num_mentions", pa.int64(), nullable=False),  # a pair that has two of them counts twice
    ]
)


def with_drop_reason(schema: pa.Schema) -> pa.Schema:
    """The schema of what a stage returns: ``schema`` and, last, the nullable ``drop_reason``."""
    return schema.append(DROP_REASON)
