"""Which changes of a message tell of the same user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.changes import Change
from schemas.identities import Catalogue
from schemas.users import Users


def change(user, previous=None, kind=None, audience_id=1):
    return Change(
        kind or ("identity_changed" if previous else "member_added"),
        audience_id,
        "Name",
        None,
        7,
        user,
        previous or {},
    )


def users_of(*changes, catalogue=None):
    users = Users(changes, (catalogue or Catalogue()).names_by_precedence)
    return [users.user_of(change) for change in changes]


def are_one_user(*changes, catalogue=None):
    return len(set(users_of(*changes, catalogue=catalogue))) == 1


def test_the_mpid_comes_first_then_the_customer_id_then_the_order_of_the_catalogue():
    names = Catalogue().names_by_precedence
    assert names[:4] == ("MPID", "CustomerId", "Email", "FacebookId")
    assert sorted(names) == sorted(Catalogue().names)


TOLD_BY = {
    "the MPID before all others": {"Email": "e", "CustomerId": "c", "MPID": "m"},
    "the Customer ID without an MPID": {"Email": "e", "CustomerId": "c"},
    "the catalogue's first without both": {"FacebookId": "f", "Email": "e"},
    "a value before an empty one": {"MPID": "", "CustomerId": "c"},
    "an empty value where there is no other": {"Other": "", "Email": ""},
}
KEYS = [("MPID", "m"), ("CustomerId", "c"), ("Email", "e"), ("CustomerId", "c"), ("Email", "")]


@pytest.mark.parametrize(("identities", "key"), [*zip(TOLD_BY.values(), KEYS, strict=True)], ids=TOLD_BY)
def test_a_user_is_identified_by_the_first_identity_in_the_order_of_precedence(identities, key):
    assert users_of(change(identities)) == [(1, *key)]


def test_other_identities_may_differ():
    assert are_one_user(change({"CustomerId": "c", "Email": "a"}), change({"CustomerId": "c", "Email": "b"}))


def test_the_user_of_another_audience_is_another_user():
    assert not are_one_user(change({"MPID": "m"}), change({"MPID": "m"}, audience_id=2))


def test_names_are_the_configured_ones():
    catalogue = Catalogue({"MPID": "Id", "CustomerId": "Login"})
    assert are_one_user(
        change({"Id": "1", "Login": "a"}), change({"Login": "b", "Id": "1"}), catalogue=catalogue
    )


def test_an_identity_change_makes_one_user_of_two_for_the_whole_message():
    a, b, other = {"CustomerId": "a"}, {"CustomerId": "b"}, {"CustomerId": "x"}
    first, _, changed, last, stranger = users_of(
        change(a), change(b), change(b, previous=a), change(b), change(other)
    )
    assert first == changed == last != stranger


def test_identity_changes_may_form_a_chain_and_a_ring():
    users = [{"CustomerId": str(number)} for number in range(5)]
    ring = [
        change(after, previous=before) for before, after in zip(users, [*users[1:], users[0]], strict=True)
    ]
    assert are_one_user(*ring, *map(change, users))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_whatever_identities_change_users_are_one_exactly_if_changes_lead_from_one_to_the_other(pairs):
    names = [{"Email": str(number)} for number in range(7)]
    found = users_of(
        *(change(names[after], previous=names[before]) for before, after in pairs), *map(change, names)
    )
    components = {number: {number} for number in range(7)}
    for before, after in pairs:
        union = components[before] | components[after]
        components.update(dict.fromkeys(union, union))
    roots = found[len(pairs) :]
    for one in range(7):
        for other in range(7):
            assert (roots[one] == roots[other]) == (other in components[one])
