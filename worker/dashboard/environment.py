"""The icon of an environment: its initial on a colour of its own, to distinguish browser tabs."""

from zlib import crc32

from flower.views import BaseHandler
from tornado import web
from tornado.escape import xhtml_escape

DEGREES = 360
ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<rect width="32" height="32" rx="6" fill="hsl({hue},70%,32%)"/>
<text x="16" y="23" text-anchor="middle" font-family="sans-serif" font-weight="bold" font-size="20"
 fill="#fff">{initial}</text>
</svg>
"""


def icon(name: str) -> str:
    """The icon of an environment's name as SVG. The same name has the same colour everywhere."""
    return ICON.format(hue=crc32(name.encode()) % DEGREES, initial=xhtml_escape(name[:1].upper()))


class EnvironmentIcon(BaseHandler):  # type: ignore[misc]
    """The icon of the environment that AUDIENCE_ENVIRONMENT names."""

    @web.authenticated
    async def get(self) -> None:
        """Serve it; 404 where the environment has no name."""
        name = self.application.environment_name
        if not name:
            raise web.HTTPError(404)
        self.set_header("Content-Type", "image/svg+xml")
        self.set_header("Content-Security-Policy", "default-src 'none'")
        self.write(icon(name))
