"""Bounded decompression of messages.

kombu decompresses a body as it makes the message object, whatever it expands to: half a megabyte of zlib
holds 500 MiB of zeros. Here each method stops at a limit. The message then keeps its compressed bytes, and
the consumer stores those as a dead letter.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from kombu.compression import encoders, get_encoder, register

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
"""The bytes of about 200,000 changes; one message has no more."""
ZSTD_CONTENT_TYPE = "application/zstd"
ZSTD_LEVEL = 1
"""It makes 67 bytes of a record with random identifiers, in 0.4 µs; level 3, the default, 76 in 0.7."""
LZMA_MEMORY_BYTES = 128 * 1024 * 1024
"""Twice the memory that `xz -9` needs. A header may ask for a dictionary of 4 GiB. zstd allows 128 MiB."""


class MessageTooLarge(ValueError):
    """A message that is larger, when it is not compressed, than a worker takes."""


class UnboundedCompression(ValueError):
    """A message compressed by a method whose result cannot be bounded while it expands."""


class Decompressor(Protocol):
    """The interface that the standard library's decompressors share."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the stream's end."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Decompress into at most so many bytes."""


def _lzma_decompressor() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=LZMA_MEMORY_BYTES)


DECOMPRESSORS: dict[str, Callable[[], Decompressor]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": _lzma_decompressor,
    ZSTD_CONTENT_TYPE: zstd.ZstdDecompressor,
}
"""By the content type under which kombu registers the method."""


def register_bounded_compression() -> None:
    """Bound each compression method of this process, in both directions; refuse what cannot be bounded."""
    for content_type in encoders():
        encode = _compress_zstd if content_type == ZSTD_CONTENT_TYPE else get_encoder(content_type)[0]
        make = DECOMPRESSORS.get(content_type)
        register(_bounded_encoder(encode), _bounded_decoder(make) if make else _refuse, content_type)


def decompress_within(data: bytes, content_type: str, limit: int) -> bytes:
    """Decompress what kombu has compressed by the method of this content type, into at most `limit` bytes.

    Raises `MessageTooLarge`, `UnboundedCompression`, and what `decompress` raises.
    """
    make = DECOMPRESSORS.get(content_type)
    return decompress(data, make, limit) if make else _refuse(data)


def decompress(data: bytes, make: Callable[[], Decompressor], limit: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """Decompress one stream into at most `limit` bytes.

    Raises `MessageTooLarge`, `ValueError` for a stream that is cut off or followed by more bytes, and the
    decompressor's own errors.
    """
    stream = make()
    content = stream.decompress(data, limit + 1)
    if len(content) > limit:
        raise MessageTooLarge(f"expands to more than {limit} bytes")
    if not stream.eof or stream.unused_data:
        raise ValueError("the compressed stream ends too early or too late")
    return content


def _compress_zstd(content: bytes) -> bytes:
    return zstd.compress(content, ZSTD_LEVEL)


def _bounded_decoder(make: Callable[[], Decompressor]) -> Callable[[bytes], bytes]:
    return lambda data: decompress(data, make)


def _bounded_encoder(encode: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """An encoder that sends nothing which a worker would refuse: the sender fails instead."""

    def encode_bounded(content: bytes) -> bytes:
        if len(content) > MAX_DECOMPRESSED_BYTES:
            raise MessageTooLarge(
                f"{len(content)} bytes; at most {MAX_DECOMPRESSED_BYTES} are sent compressed"
            )
        return encode(content)

    return encode_bounded


def _refuse(data: Any) -> NoReturn:
    raise UnboundedCompression("this compression method is not supported")
