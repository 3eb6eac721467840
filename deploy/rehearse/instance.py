"""One instance of the image, run as Cloud Run runs a container: its files read-only, PORT, no disk, a limit
on memory, SIGTERM and ten seconds at the end. Its log goes into a file, whose lines must be JSON."""
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.realpath(__file__))
GRACE_S = 10
START_S = 240  # what Cloud Run's startup probe allows at most


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Instance:
    def __init__(self, number, rehearsal, arguments=()):
        self.number = number
        self.port = free_port()
        self.url = 'http://127.0.0.1:%d' % self.port
        self.log_path = os.path.join(rehearsal.work, 'instance-%03d.log' % number)
        environment = dict(rehearsal.environment, PORT=str(self.port), KAPLAN_POSTGRES='off', KAPLAN_LOG_FORMAT='gcp')
        self.started = time.monotonic()
        with open(self.log_path, 'wb') as log:
            self.process = subprocess.Popen(
                [os.path.join(HERE, '../check/sandbox.sh'), rehearsal.rootfs, str(rehearsal.memory_mib), '--', 'start',
                 '--data', rehearsal.data, *arguments],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def get(self, path, timeout=5):
        try:
            with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except (OSError, urllib.error.URLError, ValueError):
            return 0, b''

    def wait_ready(self):
        """Seconds from start to ready; None when another instance took the data first."""
        while True:
            if self.get('/readyz')[0] == 200:
                return time.monotonic() - self.started
            if self.process.poll() is not None or time.monotonic() - self.started > START_S:
                raise AssertionError('instance %d did not get ready (exit %s):\n%s' % (self.number, self.process.poll(), self.log()[-2000:]))
            time.sleep(0.05)

    def fenced(self):
        """Whether it says that another instance has the log."""
        status, body = self.get('/readyz')
        return status == 503 and (b'replaced' in body or b'fenced' in body or b'another' in body)

    def alive(self):
        return self.process.poll() is None

    def terminate(self):
        """SIGTERM; seconds until the end, and the exit code. What is not gone in time is killed, as there."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = None
        return time.monotonic() - began, code

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log(self):
        with open(self.log_path, errors='replace') as f:
            return f.read()

    def not_json(self):
        """The first line of the log that Cloud Logging would not take for an event, or None."""
        for line in self.log().splitlines():
            try:
                json.loads(line)
            except ValueError:
                return line
        return None
