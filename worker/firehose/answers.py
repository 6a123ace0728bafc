"""Reads Firehose's answer to PutRecordBatch entry by entry, and to PutRecord. Pure, and tested by a table.

FailedPutCount is not read: answers were seen whose count contradicts their entries, and only an
entry says what became of its record.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any

MALFORMED_RESPONSE = "MalformedResponse"
"""A code of our own: an answer, or an entry of one, that does not say what became of the record."""

RECORD_ID = itemgetter("RecordId")


def refusal_codes(answer: object, records: int) -> list[str]:
    """For each record the error code that it was refused with, or an empty string if it was accepted.

    `answer` is what botocore made of the response to a call with so many records. If its entries
    cannot be assigned to the records, each record counts as refused with `MALFORMED_RESPONSE`.
    """
    entries = answer.get("RequestResponses") if isinstance(answer, Mapping) else None
    if not isinstance(entries, list) or len(entries) != records:
        return [MALFORMED_RESPONSE] * records
    if _are_all_accepted(entries):
        return [""] * records
    return [refusal_code(entry) for entry in entries]


def refusal_code(entry: Any) -> str:
    """The same of one record: of an entry, or of an answer to PutRecord, which looks like one."""
    if not isinstance(entry, Mapping):
        return MALFORMED_RESPONSE
    if code := entry.get("ErrorCode"):
        return str(code)
    if entry.get("ErrorMessage") or not entry.get("RecordId"):
        return MALFORMED_RESPONSE
    return ""


def _are_all_accepted(entries: list[Any]) -> bool:
    """Whether each entry holds a RecordId and nothing else. Usual, and cheaper than to look at each alone."""
    try:
        return all(map(RECORD_ID, entries)) and sum(map(len, entries)) == len(entries)
    except (KeyError, TypeError):
        return False


def request_id(answer: object) -> str | None:
    """AWS's ID of the request, from what botocore made of its answer."""
    metadata = answer.get("ResponseMetadata") if isinstance(answer, Mapping) else None
    identifier = metadata.get("RequestId") if isinstance(metadata, Mapping) else None
    return identifier if isinstance(identifier, str) else None
