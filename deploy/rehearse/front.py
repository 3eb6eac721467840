"""What stands before the instances, as Google's front does: one address, requests go to an instance that has
traffic, X-Forwarded-For and -Proto are added. It never repeats a request. One request a connection."""
import itertools
import socket
import socketserver
import threading

CHUNK = 1 << 16


class Front(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.url = 'http://127.0.0.1:%d' % self.server_address[1]
        self._targets = []
        self._turn = itertools.count()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def route(self, *instances):
        """Requests go to these, in turn, from now on."""
        self._targets = [instance.port for instance in instances]

    def target(self):
        targets = self._targets
        return targets[next(self._turn) % len(targets)] if targets else None

    def handle_error(self, request, client_address):
        pass  # a connection that breaks is what instances do here


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        port = self.server.target()
        if port is None:
            self.request.sendall(b'HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n')
            return
        with socket.create_connection(('127.0.0.1', port), timeout=60) as upstream:
            first = self.request.recv(CHUNK)
            line, _, rest = first.partition(b'\r\n')
            upstream.sendall(line + b'\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n' + rest)
            threading.Thread(target=pump, args=(self.request, upstream), daemon=True).start()
            pump(upstream, self.request)


def pump(source, sink):
    try:
        while chunk := source.recv(CHUNK):
            sink.sendall(chunk)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
