"""notify."""

import click

from worker.cli.output import json_option, result
from worker.config import current_settings
from worker.failures.apprise_sender import apprise_sender
from worker.failures.notifications import Notification


@click.command()
@click.option("--test", "is_test", is_flag=True, required=True, help="Send one message now, to every URL.")
@json_option
def notify(is_test: bool, as_json: bool) -> None:
    """Send a test message to every URL of AUDIENCE_ALERT_URLS.

    Workers and the dashboard send alerts there by themselves; this shows that the URLs work.
    """
    settings = current_settings()
    if not settings.alert_urls:
        raise click.ClickException("AUDIENCE_ALERT_URLS is not set; see https://appriseit.com for its form")
    name = f"{settings.environment_name}: " if settings.environment_name else ""
    message = Notification(f"{name}audience-firehose: test", "Alerts of audience-firehose arrive here.")
    failed = [
        position for position, url in enumerate(settings.alert_urls, 1) if not apprise_sender([url])(message)
    ]
    if failed:
        positions = ", ".join(map(str, failed))
        raise click.ClickException(f"not sent to the URL at position {positions} of AUDIENCE_ALERT_URLS")
    sent = len(settings.alert_urls)
    result(f"sent to {sent} of {sent} URLs", as_json=as_json, sent=sent)
