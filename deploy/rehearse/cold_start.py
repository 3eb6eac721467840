#!/usr/bin/env python3
"""How long a start from a bucket takes: builds a view of many groups and a lake of many small data files in a
bucket of a real S3 server, stops the writer, starts others, and measures each until /readyz answers. What
bounds a start is in its log, a line for each part. At the end VERIFY must be clean.
usage: cold_start.py PROGRAM [--groups N] [--files N] [--starts N] [--keep DIR]
With --keep what was built stays in DIR, and the next call with it measures that again.
needs: scripts/s3.sh. exit: 0 measured, 1 something failed, 77 no S3 server. The last line is JSON."""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, '..', '..'))
STREAMS = 50  # an append costs more, the more files its table has
INSERT = 100_000  # groups a statement
START_S = 600

VIEWS = """
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT NOT NULL, UNIQUE (id) WITHIN INTERVAL '1 day');
CREATE MATERIALIZED VIEW groups AS SELECT id, count(*) AS n, sum(amount) AS total FROM events GROUP BY id;
CREATE MATERIALIZED VIEW batched WITH (architecture = 'lambda') AS
  SELECT id % 1000 AS k, count(*) AS n FROM events GROUP BY id % 1000;
"""


def bucket(directory):
    script = os.path.join(ROOT, 'scripts/s3.sh')
    done = subprocess.run([script, 'start', directory])
    if done.returncode:
        sys.exit(done.returncode)
    with open(os.path.join(directory, 'env')) as f:
        return dict(word.split('=', 1) for word in f.read().split() if '=' in word)


class Server:
    """A process on the bucket, on a free port."""

    def __init__(self, program, environment, work, arguments):
        self.log_path = os.path.join(work, 'server-%d.log' % time.monotonic_ns())
        command = [program, 'start', '--data', 's3://lake/cold', '--http', '127.0.0.1:0', '--postgres', 'off',
                   '--log-format', 'json', *arguments]
        self.began = time.monotonic()
        with open(self.log_path, 'wb') as log:
            self.process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
                                            stderr=log, cwd=work)
        self.url = None

    def lines(self):
        with open(self.log_path) as f:
            return [json.loads(line) for line in f if line.startswith('{')]

    def wait_ready(self):
        while time.monotonic() - self.began < START_S:
            if self.process.poll() is not None:
                break
            if self.url is None:
                self.url = next((line['http'] for line in self.lines() if line.get('message') == 'serving'), None)
            else:
                try:
                    with urllib.request.urlopen(self.url + '/readyz', timeout=5):
                        return time.monotonic() - self.began
                except OSError:
                    pass
            time.sleep(0.01)
        with open(self.log_path) as f:
            sys.exit('cold-start: not ready:\n' + f.read()[-3000:])

    def phases(self):
        return {line['phase']: line['ms'] for line in self.lines() if 'phase' in line}

    def sql(self, text):
        request = urllib.request.Request(self.url + '/v1/sql', text.encode(), {'content-type': 'text/plain'})
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def status(self):
        with urllib.request.urlopen(self.url + '/v1/status', timeout=60) as answer:
            return json.load(answer)

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(60)


def build(server, options):
    for statement in VIEWS.split(';')[:-1]:
        server.sql(statement)
    for first in range(1, options.groups + 1, INSERT):
        last = min(first + INSERT - 1, options.groups)
        server.sql('INSERT INTO events SELECT g, g %% 97 FROM generate_series(%d, %d) AS s(g)' % (first, last))
    server.sql('REFRESH MATERIALIZED VIEW batched')
    names = ['small_%d' % n for n in range(STREAMS)]
    for name in names:
        server.sql('CREATE STREAM %s (id BIGINT NOT NULL, text TEXT)' % name)
    for n in range(options.files // STREAMS):
        # One commit, which the archiver moves into one file a stream.
        rows = ''.join('INSERT INTO %s VALUES (%d, \'x\');' % (name, n) for name in names)
        server.sql('BEGIN;' + rows + 'COMMIT')
        while (status := server.status())['archived_lsn'] < status['durable_lsn']:
            time.sleep(0.03)
        if n % 100 == 99:
            print('cold-start: %d data files' % ((n + 1) * STREAMS), flush=True)


def measure(options, work):
    environment = bucket(os.path.join(work, 's3'))
    writing = ['--archive-interval-ms', '1', '--compact-bytes', '1', '--log-linger-ms', '1', '--checkpoint-interval-ms', '600000']
    if not os.path.exists(os.path.join(work, 'built')):
        server = Server(options.program, environment, work, writing)
        server.wait_ready()
        began = time.monotonic()
        build(server, options)
        server.end(signal.SIGTERM)
        print('cold-start: built in %d s' % (time.monotonic() - began), flush=True)
        with open(os.path.join(work, 'built'), 'w'):
            pass
    times, parts = [], []
    for n in range(options.starts):
        server = Server(options.program, environment, work, [])
        times.append(server.wait_ready())
        parts.append(server.phases())
        print('cold-start: ready after %.2f s: %s' % (times[-1], json.dumps(parts[-1])), flush=True)
        if n + 1 < options.starts:
            # Half of them find what a process that was killed left behind.
            server.end(signal.SIGKILL if n % 2 else signal.SIGTERM)
    replica = Server(options.program, environment, work, ['--read-only'])
    replica_s = replica.wait_ready()
    differences = 0
    for one in (server, replica):
        for view in ('groups', 'batched'):
            answer = one.sql('VERIFY MATERIALIZED VIEW ' + view)
            columns = [column['name'] for column in answer['columns']]
            differences += answer['rows'][0][columns.index('differences')]
    groups = server.sql('SELECT count(*) AS n FROM groups')['rows'][0][0]
    # Every row of the small streams is a file.
    files = sum(stream['rows'] for stream in server.status()['streams'] if stream['name'].startswith('small_'))
    replica.end(signal.SIGTERM)
    server.end(signal.SIGTERM)
    names = sorted({name for part in parts for name in part})
    median = {name: round(statistics.median(part.get(name, 0) for part in parts)) for name in names}
    print(json.dumps({'groups': groups, 'files': files, 'starts': options.starts,
                      'start_s_median': round(statistics.median(times), 2), 'start_s_max': round(max(times), 2),
                      'replica_s': round(replica_s, 2), 'phases_ms': median, 'differences': differences}))
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program')
    parser.add_argument('--groups', type=int, default=1_000_000)
    parser.add_argument('--files', type=int, default=10_000)
    parser.add_argument('--starts', type=int, default=6)
    parser.add_argument('--keep')
    options = parser.parse_args()
    options.program = os.path.realpath(options.program)
    work = options.keep or tempfile.mkdtemp()
    os.makedirs(work, exist_ok=True)
    try:
        differences = measure(options, work)
    finally:
        subprocess.run([os.path.join(ROOT, 'scripts/s3.sh'), 'stop', os.path.join(work, 's3')])
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if differences else 0)


main()
