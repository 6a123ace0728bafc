"""Configurations (an AWS identity) and connections (an audience tied to a stream)."""

import re
from dataclasses import dataclass, field
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from schemas.fields import StrictInteger, Text
from schemas.identities import Catalogue
from schemas.quotas import stated_figures
from schemas.records import Projection

CONFIGURATION_NAME = r"[a-z0-9-]{1,32}"
DELIVERY_STREAM_NAME = r"[a-zA-Z0-9_.-]{1,64}"
REGION_NAME = r"[a-z0-9-]{1,32}"
"""Its looks only; whether botocore knows the region is asked where one is connected."""
ROLE_ARN = r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]{1,512}"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class Configuration:
    """An AWS identity, shared by many connections."""

    name: str
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    """Encrypted: only `worker.state.secrets` makes and opens it."""
    session_token: str | None = field(default=None, repr=False)
    """Encrypted, as the secret. Temporary credentials have one and expire after some hours."""
    role_arn: str | None = None
    external_id: str | None = field(default=None, repr=False)
    send_remove_on_identity_change: bool = True


@dataclass(frozen=True)
class Connection:
    """An audience tied to a delivery stream. The defaults are the documented ones."""

    audience_id: int
    configuration: str
    delivery_stream_name: str
    region: str = DEFAULT_REGION
    send_anonymous_users: bool = True
    forward_email_addresses: bool = True
    forward_customer_ids: bool = True
    forward_idfas: bool = True
    forward_google_advertising_ids: bool = True
    identities_to_exclude: tuple[str, ...] = ()
    """By their standard names."""
    append_newline: bool = True
    include_metadata: bool = False
    """Whether a record ends with ChangeId, SequenceNumber and SchemaVersion."""
    aggregate_records: bool = False
    """Whether lines share Firehose records, which AWS bills in steps of 5 KiB."""
    stream_quota: str | None = None
    """The most that all workers together send it (`1MiB/s+200requests/s`); None for its region's quota."""

    def projection(self, configuration: Configuration, catalogue: Catalogue) -> Projection:
        """Reduce the settings of this connection and its configuration to what decides a record's looks."""
        return Projection(
            excluded=frozenset(catalogue.configured_name(name) for name in self._excluded_identities()),
            anonymous_name=catalogue.anonymous,
            send_anonymous_users=self.send_anonymous_users,
            send_remove_on_identity_change=configuration.send_remove_on_identity_change,
            append_newline=self.append_newline,
            include_metadata=self.include_metadata,
        )

    def _excluded_identities(self) -> set[str]:
        forwarded = {
            "Email": self.forward_email_addresses,
            "CustomerId": self.forward_customer_ids,
            "AppleAdvertisingIdentifier": self.forward_idfas,
            "GoogleAdvertisingIdentifier": self.forward_google_advertising_ids,
        }
        return {name for name, forward in forwarded.items() if not forward} | set(self.identities_to_exclude)


def _matching(pattern: str, what: str) -> validate.Regexp:
    # marshmallow formats the text of an error: a pattern's braces are to be left alone.
    shown = pattern.replace("{", "{{").replace("}", "}}")
    return validate.Regexp(rf"(?:{pattern})\Z", flags=re.ASCII, error=f"{what} must match {shown}")


def _check_quota(text: str) -> None:
    try:
        stated_figures(text)
    except ValueError as error:
        raise ValidationError(str(error)) from None


class ConfigurationSchema(Schema):
    """A configuration's settings, checked."""

    name = Text(required=True, validate=_matching(CONFIGURATION_NAME, "the name"))
    access_key_id = Text(allow_none=True, validate=_matching(r"\w{4,128}", "an access key ID"))
    """AWS's have 16 characters and more; those of local stand-ins for AWS are shorter."""
    secret_access_key = Text(allow_none=True, validate=validate.Length(min=1, error="empty"))
    session_token = Text(allow_none=True, validate=validate.Length(min=1, error="empty"))
    role_arn = Text(allow_none=True, validate=_matching(ROLE_ARN, "a role's ARN"))
    external_id = Text(allow_none=True, validate=_matching(r"[\w+=,.@:/-]{2,1224}", "an external ID"))
    send_remove_on_identity_change = fields.Boolean()

    @validates_schema
    def rules(self, settings: dict[str, Any], **_: Any) -> None:
        if bool(settings.get("access_key_id")) != bool(settings.get("secret_access_key")):
            raise ValidationError("an access key ID and a secret access key go together", "access_key_id")
        if settings.get("session_token") and not settings.get("access_key_id"):
            raise ValidationError("a session token goes with its access key", "session_token")
        if settings.get("external_id") and not settings.get("role_arn"):
            raise ValidationError("an external ID goes with a role's ARN", "external_id")

    @post_load
    def make(self, settings: dict[str, Any], **_: Any) -> Configuration:
        return Configuration(**settings)


class ConnectionSchema(Schema):
    """A connection's settings, checked."""

    audience_id = StrictInteger(required=True)
    configuration = Text(required=True, validate=_matching(CONFIGURATION_NAME, "a configuration's name"))
    delivery_stream_name = Text(
        required=True, validate=_matching(DELIVERY_STREAM_NAME, "a delivery stream's name")
    )
    region = Text(validate=_matching(REGION_NAME, "a region"))
    send_anonymous_users = fields.Boolean()
    forward_email_addresses = fields.Boolean()
    forward_customer_ids = fields.Boolean()
    forward_idfas = fields.Boolean()
    forward_google_advertising_ids = fields.Boolean()
    identities_to_exclude = fields.List(
        Text(validate=validate.OneOf(sorted(Catalogue().names), error="unknown identity name"))
    )
    append_newline = fields.Boolean()
    include_metadata = fields.Boolean()
    aggregate_records = fields.Boolean()
    stream_quota = Text(allow_none=True, validate=_check_quota)

    @validates_schema
    def rules(self, settings: dict[str, Any], **_: Any) -> None:
        if settings.get("aggregate_records") and not settings.get("append_newline", True):
            raise ValidationError("needs append_newline: nothing else parts the lines", "aggregate_records")

    @post_load
    def make(self, settings: dict[str, Any], **_: Any) -> Connection:
        excluded = tuple(sorted(set(settings.pop("identities_to_exclude", ()))))
        return Connection(**settings, identities_to_exclude=excluded)
