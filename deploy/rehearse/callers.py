"""Who calls the service while instances come and go: producers of events, which repeat a request until it is
acknowledged, and the schedule, which calls twice for each time."""
import datetime
import json
import threading
import time
import urllib.error
import urllib.request

BATCH = 20
RETRY_S = 0.1
# What passes: no instance, another one has the log, a view that is being filled, and, for the seconds in
# which the issuer's new key is not known yet, a token that is not taken.
REPEATED = (0, 401, 409, 429, 500, 502, 503)


class Refused(Exception):
    """An answer that repeating does not change."""


def call(url, path, token, body=None, headers=(), timeout=60):
    """-> (status, body); status 0: no answer."""
    request = urllib.request.Request(url + path, data=body, headers=dict(headers))
    request.add_header('Authorization', 'Bearer ' + token)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (OSError, urllib.error.URLError, ValueError, EOFError):
        return 0, b''
    except Exception as error:  # http.client raises kinds of its own when an answer breaks off
        if type(error).__module__ != 'http.client':
            raise
        return 0, b''


def until_answered(url, path, token, body=None, headers=(), give_up_s=300):
    """Repeats what may be repeated."""
    until = time.monotonic() + give_up_s
    while True:
        status, answer = call(url, path, token(), body, headers)
        if 200 <= status < 300:
            return json.loads(answer)
        if status in REPEATED and time.monotonic() < until:
            time.sleep(RETRY_S)
            continue
        raise Refused('%s: %d %s' % (path, status, answer[:500].decode(errors='replace')))


def sql(url, token, text):
    return until_answered(url, '/v1/sql', token, text.encode(), {'content-type': 'text/plain'})


class Producer(threading.Thread):
    """Sends consecutive batches; an event's id says who sent it."""

    def __init__(self, number, url, token, stop):
        super().__init__(daemon=True)
        self.number, self.url, self.token, self.stop = number, url, token, stop
        self.acknowledged = 0  # batches
        self.repeated = 0
        self.error = None

    def run(self):
        try:
            while not self.stop.is_set():
                self.send(self.acknowledged + 1)
        except Refused as error:
            self.error = str(error)

    def send(self, sequence):
        rows = [{'id': (self.number << 32) + (sequence - 1) * BATCH + i, 'kind': 'k%d' % (i % 5), 'amount': '1.25'}
                for i in range(BATCH)]
        body = '\n'.join(json.dumps(row) for row in rows).encode()
        headers = {'content-type': 'application/x-ndjson', 'x-kaplan-producer': 'producer-%d' % self.number,
                   'x-kaplan-sequence': str(sequence)}
        answer = until_answered(self.url, '/v1/streams/events/events', self.token, body, headers)
        self.repeated += answer.get('duplicates', 0) > 0
        self.acknowledged = sequence


class Scheduler(threading.Thread):
    """Calls for a batch run every `period_s`, twice for each time, as a schedule that saw no answer would."""

    def __init__(self, url, token, stop, period_s):
        super().__init__(daemon=True)
        self.url, self.token, self.stop, self.period_s = url, token, stop, period_s
        self.calls = {}
        self.error = None

    def run(self):
        number = 0
        try:
            while not self.stop.wait(self.period_s):
                number += 1
                when = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(hours=number)
                headers = {'content-type': 'application/json', 'x-cloudscheduler': 'true',
                           'x-cloudscheduler-jobname': 'kaplan-batch',
                           'x-cloudscheduler-scheduletime': when.strftime('%Y-%m-%dT%H:%M:%SZ')}
                self.calls[headers['x-cloudscheduler-scheduletime']] = [
                    until_answered(self.url, '/v1/batch/runs', self.token, b'{"mode": "auto"}', headers)['id']
                    for _ in range(2)]
        except Refused as error:
            self.error = str(error)
