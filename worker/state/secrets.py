"""Secrets at rest: Fernet, with several keys for rotation."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from worker.errors import SecretKeyError


class Cipher:
    """Encrypts with the first key, decrypts with any."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys]) if keys else None

    def encrypt(self, secret: str) -> str:
        """The secret as a token for the registry."""
        return self._required().encrypt(secret.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The secret in a token. Raises `SecretKeyError` where none of the keys made it."""
        try:
            return self._required().decrypt(token.encode()).decode()
        except InvalidToken:
            raise SecretKeyError(
                "a stored secret was encrypted with another key; add that key to AUDIENCE_SECRET_KEY,"
                " behind the current one"
            ) from None

    def reencrypt(self, token: str) -> str:
        """A token of the first key for the same secret. Raises `SecretKeyError`, as `decrypt`."""
        return self.encrypt(self.decrypt(token))

    def _required(self) -> MultiFernet:
        if self._fernet is None:
            raise SecretKeyError(
                "a stored secret needs AUDIENCE_SECRET_KEY, a Fernet key; set it, or use --role-arn or the"
                " environment's credentials instead"
            )
        return self._fernet
