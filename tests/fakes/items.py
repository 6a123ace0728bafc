"""Items of a message's `changes`, valid and invalid."""

from hypothesis import strategies as st

from worker.broker.serialization import dumps_bytes, loads

ADDED = {
    "type": "member_added",
    "audience_id": 1,
    "audience_external_name": "External",
    "timestamp": 7,
    "user_identities": {"CustomerId": "secretive"},
}
CHANGED = ADDED | {"type": "identity_changed", "previous_user_identities": {"Email": "secretive"}}
DELETED = {"type": "audience_deleted", "audience_id": 1, "audience_internal_name": "Internal"}
LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z."""

WRONG = st.sampled_from(
    [None, True, 1.0, 1, "", "text", "\ud800", 2**64, [], ["member_added"], {}, {"Email": 1}]
)
USER = st.dictionaries(
    st.sampled_from(["Email", "MPID", "e-mail"]), st.sampled_from(["x", "", None, 1, "\ud800"]), max_size=2
)
ANY = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["member_added", "identity_changed", "audience_deleted"]) | WRONG,
        "audience_id": st.sampled_from([0, 1]) | WRONG,
        "audience_external_name": st.just("Name") | WRONG,
        "audience_internal_name": st.just("Name") | WRONG,
        "timestamp": st.sampled_from([1, -1, LAST_SECOND + 1]) | WRONG,
        "user_identities": USER | WRONG,
        "previous_user_identities": USER | WRONG,
        "unknown": WRONG,
    },
)
ALMOST_VALID = st.builds(
    lambda item, key, value: item | {key: value},
    st.sampled_from([ADDED, CHANGED, DELETED]),
    st.sampled_from([*CHANGED, "audience_internal_name", "unknown"]),
    USER | WRONG,
)
ITEMS = WRONG | ANY | ALMOST_VALID


def as_received(items):
    """The arguments of a call with these items, as a worker receives them."""
    return loads(dumps_bytes({"changes": items}))
