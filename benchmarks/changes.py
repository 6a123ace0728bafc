"""The input: changes whose records have about 385 bytes and the entropy of real users' identities."""

from hashlib import blake2b
from typing import Any
from uuid import UUID

BATCH = 500
AUDIENCE = 123123
FIRST_NAMES = ("passepartout", "phileas", "aouda", "fix", "andrew", "ralph", "samuel", "francis")
LAST_NAMES = ("fogg", "stuart", "fallentin", "flanagan", "cromarty", "bunsby", "proctor", "speedy")


def change(number: int, audience: int = AUDIENCE) -> dict[str, Any]:
    """A change, each of another user: IDs and names alike for all would compress as no real ones do."""
    digest = blake2b(number.to_bytes(8), digest_size=48).digest()
    first, last = FIRST_NAMES[digest[0] % len(FIRST_NAMES)], LAST_NAMES[digest[1] % len(LAST_NAMES)]
    return {
        "type": "member_added",
        "audience_id": audience,
        "audience_external_name": "LowEngagement",
        "timestamp": 1234565788 + number // 1000,
        "user_identities": {
            "CustomerId": f"c-{number:010d}",
            "Email": f"{first}.{last}{digest[2]}@example.com",
            "MobileNumber": f"+1{int.from_bytes(digest[3:7]) % 10**10:010d}",
            "Other": digest[8:16].hex(),
            "FacebookId": str(int.from_bytes(digest[16:22])),
            "GoogleAdvertisingIdentifier": str(UUID(bytes=digest[24:40])),
            "AndroidId": digest[40:48].hex(),
        },
    }
