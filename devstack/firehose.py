"""A local Firehose that keeps Firehose's limits and fails on demand.

It speaks the wire protocol of the real one (JSON 1.1 over HTTP), so boto3 talks to it
unchanged. Faults are functions: each sees a call before it is carried out and may
answer in its place. In a test:

    with FakeFirehose() as firehose:
        firehose.create("stream")
        firehose.faults.append(refuse_once(b"p.fogg138"))

Run as a program it only counts, for benchmarks: `python -m devstack.firehose PORT [LATENCY_MS]`.
`GET /` says how many records it has taken, `GET /calls` which calls there were since it was
last asked, and a `PUT` of JSON how each stream behaves: `{"stream": {"delay": 5, "code":
"InternalFailure", "status": 500}}`, the fields of `Conduct`.
"""

import base64
import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

from devstack.ports import LOOPBACK

MAX_RECORDS = 500
MAX_RECORD_BYTES = 1_024_000
MAX_BATCH_BYTES = 4 * 2**20
"""Counted as base64: the stricter reading of what AWS says."""
JSON = "application/x-amz-json-1.1"
REQUEST_ID = "d0b0a1c2-0000-4000-8000-000000000001"
NO_HEADERS: Mapping[str, str] = {}
STREAM_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/")
AMZ_DATE = "%Y%m%dT%H%M%SZ"
SIGNATURE_TOLERANCE = timedelta(minutes=5)
NAME_IN_BODY = re.compile(rb'"DeliveryStreamName": ?"([^"]*)"')
DATA_IN_BODY = re.compile(rb'"Data": ?"([^"]*)"')


@dataclass
class Stream:
    """A delivery stream and what arrived in it."""

    name: str
    status: str = "ACTIVE"
    source: str = "DirectPut"
    accepted: list[bytes] = field(default_factory=list)
    encryption: dict[str, str] | None = None
    """Its DeliveryStreamEncryptionConfiguration."""


@dataclass
class Call:
    """A request: what was asked, by whom and when."""

    operation: str
    access_key_id: str
    region: str
    stream_name: str
    records: list[bytes]
    signed_at: str = ""
    """By the caller's clock, as its X-Amz-Date says."""
    client_address: str = ""


@dataclass
class Answer:
    """An answer: a status and a body, or refusals by position of the record."""

    status: int = 200
    body: dict[str, Any] | None = None
    refused: dict[int, str] = field(default_factory=dict)
    wait: threading.Event | None = None
    """Answer only once this is set: a request that hangs."""
    after: bool = False
    """Take the records, then answer so: a failure whose write happened."""
    raw: bytes | None = None
    """The bytes of the answer, in place of `body` as JSON."""
    headers: dict[str, str] = field(default_factory=dict)
    """Headers of the answer, which replace the usual ones."""


@dataclass(frozen=True)
class Conduct:
    """How a stream behaves while the server only counts."""

    delay: float = 0.0
    """Seconds until it answers."""
    code: str = ""
    """The error it answers with; none takes all records."""
    status: int = 400
    """The status of that error. 200 refuses each record of the call by itself."""
    keep: bool = False
    """Whether `GET /calls` tells the records, as base64, or only how many there were."""


class Counted(NamedTuple):
    """A call that was only counted."""

    moment: float
    """The time of its answer, on this machine's monotonic clock."""
    stream_name: str
    records: int
    bytes: int
    """Before base64."""
    accepted: int
    """Records."""
    kept: list[str]


Fault = Callable[[Call], Answer | None]


def error(code: str, status: int = 400, message: str = "") -> Answer:
    """An error response as AWS writes it."""
    return Answer(status, {"__type": code, "message": message})


def refuse_once(needle: bytes, code: str = "ServiceUnavailableException") -> Fault:
    """Refuse each record that holds `needle`, the first time it is seen."""
    seen: set[bytes] = set()

    def fault(call: Call) -> Answer | None:
        positions = [i for i, data in enumerate(call.records) if needle in data and data not in seen]
        seen.update(call.records[i] for i in positions)
        return Answer(refused=dict.fromkeys(positions, code)) if positions else None

    return fault


def refuse_share(share: float, seed: int = 0) -> Fault:
    """Refuse this share of all records, at random."""
    chance = random.Random(seed)

    def fault(call: Call) -> Answer | None:
        positions = [i for i in range(len(call.records)) if chance.random() < share]
        return Answer(refused=dict.fromkeys(positions, "ServiceUnavailableException"))

    return fault


def fail(answer: Answer, times: int | None = None, stream: str | None = None) -> Fault:
    """Give this answer to every put, or the first `times`, into every stream or one."""
    left = [times]

    def fault(call: Call) -> Answer | None:
        if not call.operation.startswith("Put") or (stream and call.stream_name != stream):
            return None
        if left[0] == 0:
            return None
        if left[0] is not None:
            left[0] -= 1
        return replace(answer)

    return fault


def refuse_old_signatures(call: Call) -> Answer | None:
    """Refuse a signature that is more than five minutes away from now, as AWS does."""
    signed_at = datetime.strptime(call.signed_at, AMZ_DATE).replace(tzinfo=UTC)
    now = datetime.now(UTC)
    if abs(now - signed_at) <= SIGNATURE_TOLERANCE:
        return None
    if signed_at < now:
        text = (
            f"Signature expired: {call.signed_at} is now earlier than {now - SIGNATURE_TOLERANCE:{AMZ_DATE}}"
        )
    else:
        text = f"Signature not yet current: {call.signed_at} is still later than {now:{AMZ_DATE}}"
    return error("InvalidSignatureException", 403, text)


def becomes_active_once_described(stream: Stream) -> Fault:
    """A stream that is being created, and is ready just after somebody has asked."""

    def fault(call: Call) -> Answer | None:
        if call.operation != "DescribeDeliveryStream" or call.stream_name != stream.name:
            return None
        described = Answer(200, {"DeliveryStreamDescription": _description(stream, call)})
        stream.status = "ACTIVE"
        return described

    return fault


class FakeFirehose:
    """The server, in a thread of the test."""

    def __init__(
        self, port: int = 0, only_counts: bool = False, latency: float = 0.0, address: str = LOOPBACK
    ) -> None:
        self.faults: list[Fault] = []
        self.calls: list[Call] = []
        self.credentials: set[str] | None = None
        """Access key IDs that are let in; None lets everybody in."""
        self.streams: dict[tuple[str, str, str], Stream] = {}
        """By access key ID, region and name: another account's stream is another stream."""
        self.lock = threading.Lock()
        self.only_counts = only_counts
        self.latency = latency
        self.counted = 0
        self.conducts: dict[str, Conduct] = {}
        """By stream, while the server only counts."""
        self.counted_calls: list[Counted] = []
        self._address = address
        self._server = ThreadingHTTPServer((address, port), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self._server.server_port}"

    def create(
        self,
        name: str,
        region: str = "us-east-1",
        access_key_id: str = "*",
        status: str = "ACTIVE",
        source: str = "DirectPut",
    ) -> Stream:
        """A new delivery stream; by default in everybody's account."""
        stream = self.streams[access_key_id, region, name] = Stream(name, status, source)
        return stream

    def accepted(self, name: str, region: str = "us-east-1", access_key_id: str = "*") -> list[bytes]:
        """The records that arrived in a stream, in their order."""
        with self.lock:
            return list(self.streams[access_key_id, region, name].accepted)

    def start(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, call: Call) -> Answer:
        """Answer a call as Firehose does."""
        with self.lock:
            self.calls.append(call)
            if self.credentials is not None and call.access_key_id not in self.credentials:
                return error("UnrecognizedClientException", 400, "The security token is invalid.")
            for fault in self.faults:
                if (given := fault(call)) is not None:
                    if (
                        given.status == HTTPStatus.OK and given.body is None and given.raw is None
                    ) or given.after:
                        self._carry_out(call, given)
                    return given
            return self._carry_out(call, Answer())

    def _carry_out(self, call: Call, answer: Answer) -> Answer:
        if not STREAM_NAME.fullmatch(call.stream_name):
            return _become(answer, error("ValidationException", 400, "deliveryStreamName"))
        stream = self._stream(call)
        if stream is None:
            return _become(answer, error("ResourceNotFoundException", 400, "stream not found"))
        if call.operation == "DescribeDeliveryStream":
            return _become(answer, Answer(200, {"DeliveryStreamDescription": _description(stream, call)}))
        if stream.status != "ACTIVE":
            return _become(answer, error("ResourceNotFoundException", 400, "stream is not active"))
        if problem := _limits(call.records):
            return _become(answer, error("InvalidArgumentException", 400, problem))
        stream.accepted += [data for i, data in enumerate(call.records) if i not in answer.refused]
        if answer.body is None:
            entries = [
                {"ErrorCode": answer.refused[i], "ErrorMessage": "Slow down."}
                if i in answer.refused
                else {"RecordId": f"record-{i}"}
                for i in range(len(call.records))
            ]
            answer.body = (
                entries[0] | {"Encrypted": False}
                if call.operation == "PutRecord"
                else {
                    "FailedPutCount": len(answer.refused),
                    "Encrypted": False,
                    "RequestResponses": entries,
                }
            )
        return answer

    def _stream(self, call: Call) -> Stream | None:
        mine = self.streams.get((call.access_key_id, call.region, call.stream_name))
        return mine or self.streams.get(("*", call.region, call.stream_name))


def _become(answer: Answer, other: Answer) -> Answer:
    answer.status, answer.body = other.status, other.body
    return answer


def _limits(records: list[bytes]) -> str:
    if not 1 <= len(records) <= MAX_RECORDS:
        return f"{len(records)} records"
    if any(len(data) > MAX_RECORD_BYTES for data in records):
        return "a record over 1,000 KiB"
    if sum((len(data) + 2) // 3 * 4 for data in records) > MAX_BATCH_BYTES:
        return "more than 4 MiB"
    return ""


def _description(stream: Stream, call: Call) -> dict[str, Any]:
    encryption = {"DeliveryStreamEncryptionConfiguration": stream.encryption} if stream.encryption else {}
    return {
        **encryption,
        "DeliveryStreamName": stream.name,
        "DeliveryStreamARN": f"arn:aws:firehose:{call.region}:123456789012:deliverystream/{stream.name}",
        "DeliveryStreamStatus": stream.status,
        "DeliveryStreamType": stream.source,
        "VersionId": "1",
        "Destinations": [],
        "HasMoreDestinations": False,
    }


TAKES_ALL = Conduct()


def _counting_answer(conduct: Conduct, records: int, is_single: bool) -> tuple[int, bytes]:
    """The status and the body for a call that is only counted."""
    if conduct.code and conduct.status != HTTPStatus.OK:
        return conduct.status, json.dumps({"__type": conduct.code, "message": ""}).encode()
    if is_single:
        return 200, b'{"RecordId":"0123456789012345678901234567890123456789"}'
    refusal = b'{"ErrorCode":"%s","ErrorMessage":"Slow down."}' % conduct.code.encode()
    entry = refusal if conduct.code else b'{"RecordId":"0123456789012345678901234567890123456789"}'
    failed = records if conduct.code else 0
    return 200, b'{"FailedPutCount":%d,"Encrypted":false,"RequestResponses":[%s]}' % (
        failed,
        b",".join([entry] * records),
    )


def _handler(firehose: FakeFirehose) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if firehose.only_counts:
                self._count(body)
                return
            answer = firehose.answer(self._call(json.loads(body)))
            if answer.wait is not None:
                answer.wait.wait()
            body = json.dumps(answer.body).encode() if answer.raw is None else answer.raw
            self._reply(answer.status, body, answer.headers)

        def _call(self, asked: dict[str, Any]) -> Call:
            found = CREDENTIAL.search(self.headers.get("Authorization", ""))
            access_key_id, region = found.groups() if found else ("", "")
            records = asked.get("Records", [asked["Record"]] if "Record" in asked else [])
            return Call(
                operation=self.headers["X-Amz-Target"].partition(".")[2],
                access_key_id=access_key_id,
                region=region,
                stream_name=asked["DeliveryStreamName"],
                records=[base64.b64decode(record["Data"]) for record in records],
                signed_at=self.headers.get("X-Amz-Date", ""),
                client_address=self.client_address[0],
            )

        def _count(self, body: bytes) -> None:
            name = NAME_IN_BODY.search(body)
            stream_name = name[1].decode() if name else ""
            conduct = firehose.conducts.get(stream_name, TAKES_ALL)
            if delay := firehose.latency or conduct.delay:
                time.sleep(delay)
            data = DATA_IN_BODY.findall(body)
            accepted = 0 if conduct.code else len(data)
            kept = [text.decode() for text in data] if conduct.keep else []
            size = sum(len(text) // 4 * 3 - text.count(b"=") for text in data)
            with firehose.lock:
                firehose.counted += accepted
                firehose.counted_calls.append(
                    Counted(time.monotonic(), stream_name, len(data), size, accepted, kept)
                )
            is_single = self.headers["X-Amz-Target"].endswith(".PutRecord")
            self._reply(*_counting_answer(conduct, len(data), is_single))

        def do_GET(self) -> None:
            """How many records have been counted, or the calls since somebody asked."""
            if self.path != "/calls":
                self._reply(200, str(firehose.counted).encode())
                return
            with firehose.lock:
                calls, firehose.counted_calls = firehose.counted_calls, []
            self._reply(200, json.dumps(calls).encode())

        def do_PUT(self) -> None:
            """From now on the streams behave so, and those that are not named as usual."""
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            firehose.conducts = {name: Conduct(**conduct) for name, conduct in asked.items()}
            self._reply(200, b"{}")

        def _reply(self, status: int, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
            self.send_response(status)
            usual = {"Content-Type": JSON, "x-amzn-RequestId": REQUEST_ID, "Content-Length": str(len(body))}
            for name, value in (usual | dict(headers)).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


if __name__ == "__main__":
    port, *latency = map(int, sys.argv[1:])
    counting = FakeFirehose(port, only_counts=True, latency=(latency or [0])[0] / 1000)
    counting._server.serve_forever()
