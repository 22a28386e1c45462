"""Tar headers of files that strangers made: announced sizes are bounded before anything is read or skipped.

`BoundedTarInfo` is given to ``tarfile.open(tarinfo=...)``. A header of an impossible size is refused, since what comes after
it lies nowhere. An odd pax record (no length, no number where one belongs) costs its member alone: `is_odd` marks that.
"""

import tarfile
from typing import Any, Self

MAX_MEMBER_BYTES = 2**40
MAX_EXTENSION_BYTES = 2**20  # of a long name, or of the pax records of a member
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class BoundedTarInfo(tarfile.TarInfo):
    """A header whose sizes can be.

    Attributes:
        is_odd: its pax records could not be read: name and size may not be what its maker meant.
    """

    is_odd = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """A header of 512 bytes.

        Raises:
            ValueError: it announces a size that cannot be, or records too long to be read into memory.
        """
        info = super().frombuf(buf, encoding, errors)
        cap = MAX_EXTENSION_BYTES if info.type in _EXTENSIONS else MAX_MEMBER_BYTES
        if not 0 <= info.size <= cap:
            raise ValueError(f"the header of {info.name[:80]!r} announces {info.size} bytes")
        return info

    @property
    def is_plain(self) -> bool:
        """Whether its bytes lie in the tar as they are: a regular file, no sparse one, no link, no device."""
        return self.isreg() and not self.issparse()

    def _apply_pax_info(self, pax_headers: dict[str, str], encoding: str, errors: str) -> None:
        for name in ("size", "GNU.sparse.size", "GNU.sparse.realsize"):
            size = pax_headers.get(name)
            if size is not None and not _is_size(size):
                del pax_headers[name]
                self.is_odd = True
        super()._apply_pax_info(pax_headers, encoding, errors)  # type: ignore[misc]

    def _proc_pax(self, tar: tarfile.TarFile) -> Any:
        stream = tar.fileobj
        assert stream is not None
        end = stream.tell() + self._block(self.size)  # type: ignore[attr-defined]
        try:
            return super()._proc_pax(tar)  # type: ignore[misc]
        except (tarfile.HeaderError, ValueError, LookupError, OverflowError):
            if self.type == tarfile.XGLTYPE or stream.tell() != end:  # the fault is in what follows
                raise
        info = self.fromtarfile(tar)
        info.is_odd = True
        info.offset = self.offset
        return info


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= MAX_MEMBER_BYTES
