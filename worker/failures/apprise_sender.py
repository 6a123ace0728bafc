"""Sends notifications through apprise, to the URLs of AUDIENCE_ALERT_URLS."""

import logging
from collections.abc import Sequence

from worker.errors import SettingError
from worker.failures.notifications import Notification, Send

# Its texts repeat URLs, which hold tokens.
logging.getLogger("apprise").setLevel(logging.CRITICAL)


def apprise_sender(urls: Sequence[str]) -> Send:
    """A function that sends to all these URLs. Raises `SettingError` where apprise does not know one."""
    # Importing it takes a fifth of a second, which only those pay who notify.
    import apprise  # noqa: PLC0415

    targets = apprise.Apprise()
    for position, url in enumerate(urls, 1):
        if not targets.add(url):
            raise SettingError(
                f"AUDIENCE_ALERT_URLS: apprise does not know the URL at position {position};"
                " see https://appriseit.com for the forms of its URLs"
            )

    def send(notification: Notification) -> bool:
        return bool(
            targets.notify(
                title=notification.title, body=notification.body, body_format=apprise.NotifyFormat.TEXT
            )
        )

    return send
