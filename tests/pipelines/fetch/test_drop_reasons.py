from pipelines.fetch.drop_reasons import (
    DROP_REASONS,
    RETRY_CLASSES,
    TRANSIENT_REASONS,
    DropError,
    FetchError,
    ImageError,
)


def test_every_slug_is_declared():
    assert TRANSIENT_REASONS < DROP_REASONS
    assert all(reasons <= DROP_REASONS for reasons in RETRY_CLASSES.values())


def test_an_error_carries_its_slug():
    for kind in (FetchError, ImageError):
        error = kind("timeout", TimeoutError("too late"))
        assert isinstance(error, DropError)
        assert (error.slug, error.detail, str(error)) == ("timeout", "too late", "timeout: too late")
