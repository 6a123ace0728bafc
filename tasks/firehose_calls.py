"""Calls of Firehose with what a stream needs: its configuration, and an error's classification."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from botocore.exceptions import ClientError

from schemas.settings import Configuration
from worker.errors import PermanentError, TransientError, WorkerTroubleError
from worker.failures.alert_types import AlertType, Failure
from worker.firehose.clients import Clients
from worker.firehose.errors import FIREHOSE_ERRORS, Classification, Kind, classify, reclassify_expired
from worker.firehose.groups import Group, records_in
from worker.firehose.health import reclassify_missing
from worker.firehose.permissions import PutRecordOnly
from worker.firehose.put import Outcome, put, put_singly, put_together
from worker.queues import Stream
from worker.state.installation import STATE_MISSING, Installation
from worker.state.registry import Registry

Called = TypeVar("Called")
KINDS = {
    Kind.TRANSIENT: TransientError,
    Kind.PERMANENT: PermanentError,
    Kind.WORKER_TROUBLE: WorkerTroubleError,
}


@dataclass(frozen=True)
class FirehoseCalls:
    """Puts batches. Raises a `DeliveryError` where Firehose took none of the records of a call."""

    clients: Clients
    registry: Registry
    installation: Installation
    put_record_only: PutRecordOnly

    def configuration_of(self, stream: Stream) -> Configuration:
        """The stream's configuration, from the registry as it is now where the snapshot lacks it."""
        configuration = self.registry.snapshot().configurations.get(stream.configuration)
        if configuration is None:
            latest = self.installation.latest_of(self.registry)
            if latest is None:
                raise WorkerTroubleError(STATE_MISSING)
            configuration = latest.configurations.get(stream.configuration)
        if configuration is None:
            advice = (
                f"there is no configuration {stream.configuration!r} (any more); `configure` it, then replay"
            )
            raise PermanentError(Failure(AlertType.INVALID_CREDENTIALS, "UnknownConfiguration", advice))
        return configuration

    def put(
        self,
        configuration: Configuration,
        stream: Stream,
        groups: list[Group],
        on_put_record_only: Callable[[], None],
    ) -> Outcome:
        """Put the groups. Calls `on_put_record_only` where the policy turns out to allow only PutRecord."""
        return self._call(
            configuration,
            stream,
            [groups],
            lambda: self._put_as_allowed(configuration, stream, groups, on_put_record_only),
        )

    def put_together(
        self, configuration: Configuration, stream: Stream, batches: Sequence[list[Group]]
    ) -> list[Outcome]:
        """Put batches in one call."""
        return self._call(
            configuration,
            stream,
            batches,
            lambda: put_together(self.clients.get(configuration, stream.region), stream.name, batches),
        )

    def _call(
        self,
        configuration: Configuration,
        stream: Stream,
        batches: Sequence[list[Group]],
        call: Callable[[], Called],
    ) -> Called:
        try:
            return call()
        except FIREHOSE_ERRORS as error:
            found = self._classify(error, configuration, stream)
        if found.renew_client:
            self.clients.forget(stream.configuration, stream.region)
        # Outside of `except`: AWS's text may quote what it was sent, and would be the error's context.
        raise KINDS[found.kind](found.failure, refused=sum(map(records_in, batches)))

    def _classify(self, error: Exception, configuration: Configuration, stream: Stream) -> Classification:
        found = reclassify_expired(classify(error), error, configuration)
        if found.failure.alert_type is not AlertType.STREAM_NOT_FOUND:
            return found
        return reclassify_missing(found, self.clients, configuration, stream)

    def _put_as_allowed(
        self,
        configuration: Configuration,
        stream: Stream,
        groups: list[Group],
        on_put_record_only: Callable[[], None],
    ) -> Outcome:
        """Put the groups by PutRecordBatch, or by PutRecord where the policy allows only that."""
        client = self.clients.get(configuration, stream.region)
        if stream in self.put_record_only:
            try:
                return put_singly(client, stream.name, groups)
            except ClientError as error:
                if not _is_denied(error):
                    raise
            # The policy has changed since.
            self.put_record_only.discard(stream)
        try:
            return put(client, stream.name, groups)
        except ClientError as error:
            if not _is_denied(error):
                raise
            batch_error = error
        try:
            outcome = put_singly(client, stream.name, groups)
        except ClientError as error:
            raise batch_error if _is_denied(error) else error from None
        self.put_record_only.add(stream)
        on_put_record_only()
        return outcome


def _is_denied(error: ClientError) -> bool:
    return classify(error).failure.alert_type is AlertType.ACCESS_DENIED
