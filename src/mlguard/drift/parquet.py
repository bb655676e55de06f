"""What does the end of a parquet file say about it? Read without pyarrow."""

from __future__ import annotations

import os
from pathlib import Path


def metadata(path: Path, name: bytes) -> bytes | None:
    """Read one entry of a parquet file's footer; None where it has none.

    Its length and the magic number are the file's end; in it, keys and values are binary fields of
    Thrift's compact protocol, each behind its length. So no worker needs pyarrow for a few names.

    Raises:
        OSError: There is no such file.
        ValueError: It is no parquet file.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 8))
        end = file.read()
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or length + 12 > size:
            raise ValueError("it does not end as a parquet file does")
        file.seek(size - 8 - length)
        footer = file.read(length)
    key = b"\x18%c%s\x18" % (len(name), name)
    _, found, rest = footer.partition(key)
    return _binary(rest) if found else None


def _binary(rest: bytes) -> bytes:
    length = shift = at = 0
    while True:
        byte = rest[at] if at < len(rest) else 0
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            break
    if at + length > len(rest):
        raise ValueError("its metadata is cut off")
    return rest[at : at + length]
