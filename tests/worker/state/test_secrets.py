"""Secrets at rest."""

import pytest
from cryptography.fernet import Fernet

from worker.errors import SecretKeyError
from worker.state.secrets import Cipher


def new_key():
    return Fernet.generate_key().decode()


def test_an_encrypted_secret_is_decrypted():
    cipher = Cipher([new_key()])
    token = cipher.encrypt("secretive")
    assert "secretive" not in token
    assert cipher.decrypt(token) == "secretive"


def test_keys_can_be_rotated():
    old, new = new_key(), new_key()
    token = Cipher([old]).encrypt("secretive")
    assert Cipher([new, old]).decrypt(token) == "secretive"


def test_the_first_key_encrypts():
    old, new = new_key(), new_key()
    token = Cipher([new, old]).encrypt("secretive")
    assert Cipher([new]).decrypt(token) == "secretive"
    with pytest.raises(SecretKeyError):
        Cipher([old]).decrypt(token)


def test_a_secret_of_a_lost_key_is_an_error_that_holds_no_part_of_it():
    token = Cipher([new_key()]).encrypt("secretive")
    with pytest.raises(SecretKeyError, match="add that key to AUDIENCE_SECRET_KEY") as caught:
        Cipher([new_key()]).decrypt(token)
    assert token not in str(caught.value)


@pytest.mark.parametrize("use", [lambda cipher: cipher.encrypt("x"), lambda cipher: cipher.decrypt("x")])
def test_without_a_key_the_error_names_the_variable_to_set(use):
    with pytest.raises(SecretKeyError, match="needs AUDIENCE_SECRET_KEY"):
        use(Cipher([]))
