"""The identity of an installation in a broker in memory."""

from dataclasses import dataclass


@dataclass
class FakeBrokerIdentity:
    """A broker that holds an identity, or none."""

    identity: str | None = None
    reads: int = 0

    def read(self) -> str | None:
        """The identity."""
        self.reads += 1
        return self.identity

    def write(self, identity: str) -> None:
        """Hold it, unless there is one."""
        self.identity = self.identity or identity
