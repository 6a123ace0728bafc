"""`celery -A worker dashboard`."""

import logging
import os
import signal
import sys
from typing import Any, NoReturn

import click
from celery.bin.base import CeleryCommand
from flower.command import (
    apply_env_options,
    apply_options,
    extract_settings,
    setup_logging,
    warn_about_celery_args_used_in_flower_command,
)
from flower.urls import settings
from tornado.ioloop import IOLoop
from tornado.options import options

from worker.config import Settings, current_settings
from worker.consumer.start.garbage_collection import freeze_loaded_objects
from worker.dashboard.access import credentials, listening_address
from worker.dashboard.application import Dashboard, make_access
from worker.errors import SettingError
from worker.logs.setup import LogFormat, format_as_json
from worker.services import Services

logger = logging.getLogger(__name__)

EPILOG = (
    "Every option of Flower is taken, on the command line and as an environment variable:"
    " https://flower.readthedocs.io/en/latest/config.html"
)


@click.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True}, epilog=EPILOG)
@click.argument("flower_options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def dashboard(ctx: click.Context, flower_options: tuple[str, ...]) -> None:
    """Flower with three more pages: System Alerts, Streams and Dead Letters.

    Listens on this machine only, unless there is a password:

    \b
      celery -A worker dashboard
      FLOWER_BASIC_AUTH=user:password celery -A worker dashboard --address=0.0.0.0

    \b
      --port=5555               the port to listen on
      --address=127.0.0.1       the address to listen on
      --basic-auth=user:pass    better given as FLOWER_BASIC_AUTH
      --auth, --auth-provider   OAuth instead
      --url-prefix=flower       where a proxy serves it under a path

    Arguments and results of tasks are never shown, because they hold identity values.
    """
    if not isinstance(getattr(ctx.obj.app, "services", None), Services):
        raise click.UsageError("it shows this project's application only: celery -A worker dashboard")
    warn_about_celery_args_used_in_flower_command(ctx, flower_options)
    ours = current_settings()
    try:
        read_options(flower_options, ours)
        # Made now: a URL that apprise does not know is an error before anything is served.
        _ = ctx.obj.app.notifier
    except SettingError as error:
        raise click.ClickException(str(error)) from None
    serve(ctx.obj.app, ours, banner=not ctx.obj.quiet)


def read_options(flower_options: tuple[str, ...], ours: Settings) -> None:
    """Fill Flower's options and settings. Raises `SettingError` where they would let strangers in."""
    apply_env_options()
    if ours.flower_basic_auth:
        options.basic_auth = list(ours.flower_basic_auth)
    apply_options(sys.argv[0], flower_options)
    options.basic_auth = credentials(options.basic_auth)
    if credentials(ours.viewer_auth, "AUDIENCE_VIEWER_AUTH") and not options.basic_auth:
        raise SettingError("AUDIENCE_VIEWER_AUTH: needs FLOWER_BASIC_AUTH beside it, or everybody could act")
    options.address = listening_address(options.address, is_guarded=bool(options.basic_auth or options.auth))
    extract_settings()
    setup_logging()
    if ours.log_format is LogFormat.JSON:
        format_as_json(logging.getLogger())
    # At debug level it logs the arguments of the tasks that it is asked to run.
    logging.getLogger("flower.api.tasks").setLevel(logging.INFO)


def serve(app: Any, ours: Settings, *, banner: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    access = make_access(options, ours.viewer_auth, allows_control=ours.flower_control)
    # Flower's own check lets in whom ours lets in; what each may do, ours has decided before.
    options.basic_auth = [*options.basic_auth, *ours.viewer_auth]
    application = Dashboard(app, options, access, ours.environment_name, **settings)
    stop_on_signals(application.io_loop)
    freeze_loaded_objects()
    port = listen(application)
    if banner:
        log_address(app, "https" if "ssl_options" in settings else "http", port)
    try:
        application.start()
    finally:
        application.stop()
    leave()


def listen(application: Dashboard) -> int | None:
    """Listen; the port, or None for a Unix socket. Raises click's error where the address cannot be had."""
    try:
        port: int | None = application.start_http_server()
    except OSError as error:
        place = options.unix_socket or f"{options.address}:{options.port}"
        other = "--unix-socket=" if options.unix_socket else f"--port={options.port + 1}"
        raise click.ClickException(
            f"cannot listen on {place} ({error.strerror}); name another: {other}"
        ) from None
    return port


def log_address(app: Any, scheme: str, port: int | None) -> None:
    """Log where the dashboard is and which broker it reads. Flower's own banner lists every task, too."""
    if options.unix_socket:
        logger.info("the dashboard listens on %s", options.unix_socket)
    else:
        prefix = f"/{options.url_prefix.strip('/')}/" if options.url_prefix else "/"
        logger.info("the dashboard: %s://%s:%s%s", scheme, options.address or "127.0.0.1", port, prefix)
    with app.connection() as connection:
        logger.info("broker: %s", connection.as_uri())


def stop_on_signals(loop: IOLoop) -> None:
    """Let the loop end what it is doing and then itself; at once where it has not begun."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.add_callback_from_signal(loop.stop))


def leave() -> NoReturn:
    """End the process, with success, whatever its threads wait for.

    Kombu waits for a broker that has gone away as long as it takes, in threads that Python
    would wait for in turn.
    """
    logging.shutdown()
    os._exit(os.EX_OK)
