"""The input: changes of the documented example's size."""

from typing import Any

BATCH = 500
AUDIENCE = 123123


def change(number: int, audience: int = AUDIENCE) -> dict[str, Any]:
    """A change, each of another user."""
    return {
        "type": "member_added",
        "audience_id": audience,
        "audience_external_name": "LowEngagement",
        "timestamp": 1234565788,
        "user_identities": {
            "CustomerId": f"p.fogg{number}",
            "Email": "",
            "Other": "balloondude83",
            "Other3": "balloongal89",
            "FacebookId": "phileas83",
            "GoogleAdvertisingIdentifier": "phileas83",
        },
    }
