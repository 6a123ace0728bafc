"""A TCP link to a server that can drop packets and close nothing, as a firewall or a dead host does."""

import selectors
import socket
import threading
from contextlib import suppress
from urllib.parse import urlsplit


class Link:
    """A TCP link to the server of a URL: open until `drop`, and for new connections again after `heal`."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f":{parts.port}", f":{self._listener.getsockname()[1]}")
        self._peers = {}
        self._dead = set()
        self._servers = set()
        self._drops = self._drops_answers = False
        self._lost_text = b""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def drop(self):
        """From now on drop every packet."""
        self._drops = True

    def drop_answers(self):
        """From now on drop what the server sends."""
        self._drops_answers = True

    def drop_answers_from(self, text):
        """Drop what the server sends from the first answer with this text on."""
        self._lost_text = text.encode()

    def heal(self):
        """Let new connections through. The old ones stay half-open."""
        self._dead |= set(self._peers)
        self._drops = self._drops_answers = False
        self._lost_text = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._ends = True
        self._thread.join()
        for peer in [*self._peers, self._listener]:
            peer.close()

    def _run(self):
        while not self._ends:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept()
                elif self._is_open(key.fileobj):
                    self._forward(key.fileobj)
                else:
                    with suppress(OSError):
                        if not key.fileobj.recv(65536):
                            self._selector.unregister(key.fileobj)

    def _is_open(self, peer):
        """Whether what the peer sends arrives."""
        return not (self._drops or peer in self._dead or (self._drops_answers and peer in self._servers))

    def _accept(self):
        near, _ = self._listener.accept()
        far = socket.create_connection(self._server)
        self._peers |= {near: far, far: near}
        self._servers.add(far)
        for peer in (near, far):
            self._selector.register(peer, selectors.EVENT_READ)

    def _forward(self, peer):
        try:
            content = peer.recv(65536)
        except OSError:
            content = b""
        if content:
            if self._lost_text and peer in self._servers and self._lost_text in content:
                self._drops_answers = True
            else:
                self._peers[peer].sendall(content)
            return
        for end in (peer, self._peers[peer]):
            with suppress(KeyError, ValueError):
                self._selector.unregister(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
