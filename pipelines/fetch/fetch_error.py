"""Why a URL gave no image, as the manifest will tell it."""


class FetchError(Exception):
    """A URL that could not be fetched: ``<slug>: <detail>``, the slug being one of ``download.DROP_REASONS``."""

    def __init__(self, slug: str, detail: object) -> None:
        super().__init__(f"{slug}: {detail}")
        self.slug = slug
        self.detail = detail
