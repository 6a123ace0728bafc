"""The identity catalogue: the names that streams receive are data, and these."""

import pytest

from schemas.identities import ROWS, Catalogue

DOCUMENTED = {"CustomerId", "Email", "FacebookId", "Other", "Other3", "GoogleAdvertisingIdentifier"}
BY_PATTERN = {"TwitterId", "GoogleId", "MicrosoftId", "YahooId", "AndroidId"} | {
    "AppleAdvertisingIdentifier",
    "AppleVendorIdentifier",
    *(f"Other{number}" for number in (2, 4, 5, 6, 7, 8, 9, 10)),
    *("MobileNumber", "PhoneNumber2", "PhoneNumber3"),
}
SEEN = {
    "MPID": "seen in third-party payloads",
    "RokuAdvertisingIdentifier": "seen in a vendor SDK",
    "RokuPublisherId": "seen in a vendor SDK",
    "MicrosoftAdvertisingId": "seen in a vendor SDK",
    "FireAdvertisingId": "seen in a vendor SDK",
}
DEVICES = {
    "Android ID",
    "Google Advertising ID",
    "Apple Advertising ID",
    "Apple Vendor ID",
    "Fire Advertising ID",
    "Microsoft Advertising ID",
    "Roku Advertising ID",
    "Roku Publisher ID",
}
USERS = {
    "Customer ID",
    "Email Address",
    "Facebook ID",
    "Google ID",
    "Microsoft ID",
    "mParticle ID",
    "Other",
    *(f"Other {number}" for number in range(2, 11)),
    *("Mobile Number", "Phone Number 2", "Phone Number 3"),
    "Twitter ID",
    "Yahoo ID",
}


def named(basis):
    return {row.name for row in ROWS if row.basis == basis}


def test_the_catalogue_holds_all_documented_identities():
    assert {row.identity for row in ROWS if row.kind == "device"} == DEVICES
    assert {row.identity for row in ROWS if row.kind == "user"} == USERS
    assert len(ROWS) == 8 + 21


def test_each_name_has_a_basis():
    assert named("documented") == DOCUMENTED
    assert named("by pattern") == BY_PATTERN
    assert {row.name: row.basis for row in ROWS if row.name in SEEN} == SEEN
    assert Catalogue().names == DOCUMENTED | BY_PATTERN | SEEN.keys()


def test_an_operator_configures_the_name_of_an_identity():
    catalogue = Catalogue({"Email": "EmailAddress"})
    assert "EmailAddress" in catalogue.names
    assert "Email" not in catalogue.names
    assert catalogue.configured_name("Email") == "EmailAddress"
    assert catalogue.standard("EmailAddress") == "Email"
    assert catalogue.by_mparticle_type["email"] == "EmailAddress"


def test_the_name_of_the_mpid_can_be_configured_too():
    assert Catalogue({"MPID": "MparticleId"}).anonymous == "MparticleId"


def test_names_may_be_exchanged():
    catalogue = Catalogue({"Other": "Other2", "Other2": "Other"})
    assert (catalogue.configured_name("Other"), catalogue.standard("Other")) == ("Other2", "Other2")


def test_a_configured_name_of_no_identity_is_refused_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"not an identity name: EMail; the names are .*\bEmail\b"):
        Catalogue({"EMail": "email"})


def test_two_identities_cannot_share_a_name():
    with pytest.raises(ValueError, match="two identities"):
        Catalogue({"Other": "Email"})
