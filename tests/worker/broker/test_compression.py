"""Compressed messages: every method stops at the limit, and what it does not expand is left as it came."""

import bz2
import lzma
import sys
import tracemalloc
import zlib
from hashlib import sha256

import pytest
from kombu.compression import compress, encoders, register
from kombu.compression import decompress as kombu_decompress
from kombu.message import Message

import worker.celery  # noqa: F401
from worker.broker import compression
from worker.broker.compression import (
    DECOMPRESSORS,
    MAX_DECOMPRESSED_BYTES,
    MessageTooLarge,
    UnboundedCompression,
    decompress,
    register_bounded_compression,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LIMIT = 1_000_000
BOMB_BYTES = 500 * 1024 * 1024
COMPRESS = {
    "application/x-gzip": zlib.compress,
    "application/x-bz2": bz2.compress,
    "application/x-lzma": lzma.compress,
    "application/zstd": zstd.compress,
}
METHODS = sorted(DECOMPRESSORS)
REFUSALS = (ValueError, EOFError, OSError, zlib.error, lzma.LZMAError, zstd.ZstdError)


@pytest.fixture(scope="module")
def zlib_bomb():
    """Half a megabyte that expands to 500 MiB."""
    stream = zlib.compressobj(9)
    part = bytes(1024 * 1024)
    return b"".join(stream.compress(part) for _ in range(BOMB_BYTES // len(part))) + stream.flush()


def test_every_method_that_kombu_has_here_is_bounded():
    assert set(encoders()) <= DECOMPRESSORS.keys()
    assert COMPRESS.keys() == DECOMPRESSORS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_what_one_method_compresses_is_read_again(method):
    content = b'[[], {"changes": []}, {}]' * 1000
    compressed, content_type = compress(content, method)
    assert kombu_decompress(compressed, content_type) == content


@pytest.mark.parametrize("method", METHODS)
def test_content_at_the_limit_is_read_and_a_byte_more_is_not(method):
    make = DECOMPRESSORS[method]
    assert decompress(COMPRESS[method](bytes(LIMIT)), make, LIMIT) == bytes(LIMIT)
    with pytest.raises(MessageTooLarge):
        decompress(COMPRESS[method](bytes(LIMIT + 1)), make, LIMIT)


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_that_is_cut_off_or_followed_by_another_is_refused(method):
    compressed = COMPRESS[method](b"secretive" * 1000)
    for wrong in (compressed[:-8], compressed + compressed, b"", b"no stream at all"):
        with pytest.raises(REFUSALS) as refused:
            decompress(wrong, DECOMPRESSORS[method], LIMIT)
        assert "secretive" not in str(refused.value)


def test_a_message_of_half_a_megabyte_that_expands_to_500_mib_keeps_its_compressed_bytes(zlib_bomb):
    tracemalloc.start()
    try:
        message = Message(body=zlib_bomb, headers={"compression": "application/x-gzip"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(zlib_bomb) < 600_000
    assert message.body is zlib_bomb
    assert message.errors[0][0] is MessageTooLarge
    # The output is built from blocks and joined once.
    assert peak < 2.5 * MAX_DECOMPRESSED_BYTES


def test_a_dictionary_that_an_lzma_header_asks_for_is_bounded():
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1024 * 1024 * 1024}]
    compressed = lzma.compress(b"secretive", filters=filters)
    with pytest.raises(lzma.LZMAError, match=r"[Mm]emory"):
        decompress(compressed, DECOMPRESSORS["application/x-lzma"], LIMIT)


def test_nothing_is_sent_that_would_be_refused(monkeypatch):
    monkeypatch.setattr(compression, "MAX_DECOMPRESSED_BYTES", 100)
    with pytest.raises(MessageTooLarge):
        compress(bytes(101), "zstd")
    assert compress(bytes(100), "zstd")


def test_a_method_that_cannot_be_bounded_is_refused(monkeypatch):
    for table in ("_encoders", "_decoders"):
        monkeypatch.setattr(f"kombu.compression.{table}", {})
    register(zlib.compress, zlib.decompress, "application/x-other")
    register_bounded_compression()
    with pytest.raises(UnboundedCompression):
        kombu_decompress(zlib.compress(b"x"), "application/x-other")


def test_batches_of_random_identifiers_are_smaller_than_by_the_default_level():
    identifiers = [sha256(str(number).encode()).hexdigest() for number in range(500)]
    records = "".join(f'{{"UserIdentities":{{"Other":"{each}"}}}}\n' for each in identifiers).encode()

    body, _ = compress(records, "zstd")

    assert len(body) < len(zstd.compress(records))
