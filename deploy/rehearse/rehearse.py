#!/usr/bin/env python3
"""A rehearsal of the cloud without the cloud: the image's files run as Cloud Run runs them (instance.py), behind
a front that routes like Google's (front.py), on a bucket of a real S3 server, called by producers and by a
schedule with ID tokens of a stand-in issuer (callers.py, issuer.py). All the while revisions change,
instances get SIGTERM or SIGKILL, and two run at once; a read replica (readers.py) follows them all. At the end every acknowledged event must be there
once, VERIFY must be clean on writer and replica, a batch job must publish, and no call of the schedule may have run a batch twice.
usage: rehearse.py ROOTFS [--rounds N] [--seed S] [--memory-mib M] [--producers P] [--keep DIR]
needs: root (sandbox.sh), openssl, scripts/s3.sh. exit: 0 all held, 1 something did not, 77 no S3 server."""
import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from callers import BATCH, Producer, Scheduler, call, sql
from front import Front
from instance import GRACE_S, Instance
from issuer import Issuer
from readers import Reader, run_job

HERE = os.path.dirname(os.path.realpath(__file__))
ROOT = os.path.realpath(os.path.join(HERE, '..', '..'))
AUDIENCE = 'https://kaplan.example'
PRODUCER, SCHEDULER = 'producer@example.iam', 'scheduler@example.iam'
TOKEN_S = 60  # a caller's token is used for so long
SCHEDULE_S = 3
SETUP = """
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT NOT NULL, amount NUMERIC(10, 2) NOT NULL);
CREATE MATERIALIZED VIEW by_kind_lambda WITH (architecture = 'lambda') AS
  SELECT kind, count(*) AS n, sum(amount) AS total FROM events GROUP BY kind;
CREATE MATERIALIZED VIEW by_kind_kappa WITH (architecture = 'kappa') AS
  SELECT kind, count(*) AS n, sum(amount) AS total FROM events GROUP BY kind;
"""


class Failed(Exception):
    """What the rehearsal is there to find."""


class Rehearsal:
    def __init__(self, options, work):
        self.work, self.rootfs, self.memory_mib = work, options.rootfs, options.memory_mib
        self.random = random.Random(options.seed)
        self.data = 's3://lake/rehearsal-%d' % options.seed
        self.environment = bucket(os.path.join(work, 's3'))
        self.front = Front()
        self.issuer = Issuer(work, AUDIENCE)
        self.environment.update(oidc(self.issuer))
        self.tokens = {}
        self.stop = threading.Event()
        self.instances = []
        self.serving = None
        self.cold_starts, self.ends = [], []
        self.counts = dict.fromkeys(('SIGKILL', 'SIGTERM', 'revision', 'double', 'fenced'), 0)

    def token(self, email=PRODUCER):
        made, token = self.tokens.get(email, (0, ''))
        if not token or time.monotonic() - made > TOKEN_S:
            token = self.issuer.token(email)
            self.tokens[email] = (time.monotonic(), token)
        return token

    def start(self):
        instance = Instance(len(self.instances) + 1, self)
        self.instances.append(instance)
        return instance

    def ready(self, instance):
        self.cold_starts.append(instance.wait_ready())
        return instance

    def end(self, instance, replaced=False):
        """SIGTERM. An instance that has lost the log may say so by its exit code."""
        seconds, code = instance.terminate()
        self.ends.append(seconds)
        if code is None:
            raise Failed('instance %d did not end within %d s of SIGTERM' % (instance.number, GRACE_S))
        if code != 0 and not (replaced and code == 1):
            raise Failed('instance %d ended with %d:\n%s' % (instance.number, code, instance.log()[-2000:]))

    def replace(self):
        """The serving instance is gone, or as good as gone: another one takes its place."""
        self.serving = self.ready(self.start())
        self.front.route(self.serving)

    # What happens in a round.
    def sigkill(self):
        self.counts['SIGKILL'] += 1
        self.serving.kill()
        self.replace()

    def sigterm(self):
        self.counts['SIGTERM'] += 1
        self.front.route()
        self.end(self.serving)
        self.replace()

    def revision(self):
        """As release.sh does: the new one is ready, traffic moves, the old one is ended."""
        self.counts['revision'] += 1
        old = self.serving
        self.replace()
        self.expect_fenced(old)
        self.end(old, replaced=True)

    def double(self):
        """Two instances with traffic at once; then one of them, either one, goes without a word."""
        self.counts['double'] += 1
        old, new = self.serving, self.ready(self.start())
        self.front.route(old, new)
        time.sleep(self.random.uniform(0.2, 1.5))
        self.expect_fenced(old)
        if self.random.random() < 0.5:
            old.kill()
            self.serving = new
            self.front.route(new)
        else:
            new.kill()
            # The one that is left has lost the log, and must not go on as if it had not.
            self.serving = old
            self.front.route(old)
            time.sleep(self.random.uniform(0.1, 0.5))
            self.end(old, replaced=True)
            self.replace()

    def expect_fenced(self, old):
        """An old instance that is asked to write learns that it was replaced, and turns unready."""
        call(old.url, '/v1/streams/probe/events', self.token(), b'{"n": 1}', {'content-type': 'application/x-ndjson'})
        until = time.monotonic() + 30
        while old.alive() and not old.fenced():
            if time.monotonic() > until:
                raise Failed('instance %d was replaced and does not say so: %s' % (old.number, old.get('/readyz')))
            time.sleep(0.05)
        self.counts['fenced'] += 1

    def round(self):
        time.sleep(self.random.uniform(0.3, 2.0))
        self.random.choice((self.sigkill, self.sigterm, self.revision, self.double))()


def bucket(directory):
    """Starts the S3 server; its variables."""
    started = subprocess.run([os.path.join(ROOT, 'scripts/s3.sh'), 'start', directory])
    if started.returncode:
        sys.exit(started.returncode)
    with open(os.path.join(directory, 'env')) as f:
        words = f.read().replace('export ', ' ').split()
    return dict(word.split('=', 1) for word in words)


def oidc(issuer):
    """Settings by which the program asks its callers for tokens of this issuer."""
    return {'KAPLAN_OIDC_ISSUER': issuer.url, 'KAPLAN_OIDC_AUDIENCE': AUDIENCE, 'KAPLAN_OIDC_CALLERS': ','.join((PRODUCER, SCHEDULER))}


def check(rehearsal, producers, schedule):
    """What must hold at the end. -> (events, figures)"""
    url, token = rehearsal.front.url, rehearsal.token
    for thread in (*producers, schedule):
        if thread.error:
            raise Failed(thread.error)
    acknowledged = sum(p.acknowledged for p in producers) * BATCH
    answer = sql(url, token, 'SELECT count(*), count(DISTINCT id) FROM events')
    rows, distinct = answer['rows'][0]
    wanted = {p.number: p.acknowledged * BATCH for p in producers}
    found = dict(sql(url, token, 'SELECT id / 4294967296 AS p, count(*) AS n FROM events GROUP BY id / 4294967296')['rows'])
    lost = sum(max(0, n - found.get(number, 0)) for number, n in wanted.items())
    # A batch that was cut off at the very end may be there without having been acknowledged.
    beyond = sum(max(0, found.get(number, 0) - n) for number, n in wanted.items())
    doubled = rows - distinct
    if lost or doubled or beyond > BATCH * len(producers):
        raise Failed('%d acknowledged, %d lost, %d doubled, %d beyond' % (acknowledged, lost, doubled, beyond))
    verify(url, token)
    runs = {run['id']: run for run in json.loads(call(url, '/v1/status', token())[1])['runs']}
    twice = 0
    for when, (first, second) in schedule.calls.items():
        # A run that the end of its process cut off may be asked for again; one that was done may not.
        if first != second and runs.get(first, {}).get('state') == 'succeeded':
            twice += 1
            raise Failed('the call for %s ran twice: %s and %s' % (when, first, second))
    return acknowledged, lost, doubled


def verify(url, token):
    for view in ('by_kind_lambda', 'by_kind_kappa'):
        answer = sql(url, token, 'VERIFY MATERIALIZED VIEW ' + view)
        row = dict(zip((column['name'] for column in answer['columns']), answer['rows'][0]))
        if row['differences'] or row['rows_served'] != 5:
            raise Failed('VERIFY %s at %s: %s' % (view, url, row))


def check_beside(rehearsal, reader, acknowledged):
    """What must hold of the replica and of a batch job beside the writer."""
    if reader.error:
        raise Failed(reader.error)
    reader.catch_up(acknowledged)
    verify(reader.instance.url, rehearsal.token)
    published = run_job(rehearsal)
    if not published or any(view['state'] != 'succeeded' for view in published):
        raise Failed('the batch job published %s' % published)
    verify(rehearsal.front.url, rehearsal.token)


def turned_away(rehearsal):
    """Callers who must not get in, and one whose issuer has a new key, who must."""
    issuer, url = rehearsal.issuer, rehearsal.front.url
    now = int(time.time())
    for what, token, wanted in (
            ('for another audience', issuer.token(PRODUCER, aud='https://other.example'), 401),
            ('of another issuer', issuer.token(PRODUCER, iss='https://other.example'), 401),
            ('that has expired', issuer.token(PRODUCER, exp=now - 3600, iat=now - 7200), 401),
            ('of a stranger', issuer.token('stranger@example.iam'), 403),
            ('that is none', 'none', 401)):
        status, body = call(url, '/v1/status', token)
        if status != wanted:
            raise Failed('a token %s is answered %d: %s' % (what, status, body[:200]))
    issuer.rotate()
    # Keys are fetched again at most every some seconds, so that strangers cannot make it a load.
    until = time.monotonic() + 60
    while call(url, '/v1/status', issuer.token(PRODUCER))[0] != 200:
        if time.monotonic() > until:
            raise Failed('tokens of a new key are refused')
        time.sleep(1)
    rehearsal.tokens.clear()


def rehearse(options, work):
    rehearsal = Rehearsal(options, work)
    try:
        rehearsal.replace()
        for statement in filter(str.strip, SETUP.split(';')):
            sql(rehearsal.front.url, rehearsal.token, statement)
        sql(rehearsal.front.url, rehearsal.token, 'CREATE STREAM probe (n BIGINT NOT NULL)')
        producers = [Producer(n, rehearsal.front.url, rehearsal.token, rehearsal.stop) for n in range(1, options.producers + 1)]
        schedule = Scheduler(rehearsal.front.url, lambda: rehearsal.token(SCHEDULER), rehearsal.stop, SCHEDULE_S)
        reader = Reader(Instance(0, rehearsal, ['--read-only']), rehearsal)
        rehearsal.instances.append(reader.instance)
        for thread in (*producers, schedule, reader):
            thread.start()
        for number in range(1, options.rounds + 1):
            rehearsal.round()
            if number % 10 == 0:
                print('rehearse: %d rounds, %d events acknowledged' % (number, sum(p.acknowledged for p in producers) * BATCH), flush=True)
        turned_away(rehearsal)
        rehearsal.stop.set()
        for thread in (*producers, schedule, reader):
            thread.join(300)
        acknowledged, lost, doubled = check(rehearsal, producers, schedule)
        check_beside(rehearsal, reader, acknowledged)
        rehearsal.end(reader.instance)
        rehearsal.end(rehearsal.serving)
        for instance in rehearsal.instances:
            line = instance.not_json()
            if line is not None:
                raise Failed('instance %d wrote a line that is not JSON: %s' % (instance.number, line[:300]))
        starts = sorted(rehearsal.cold_starts)
        # The last line is the record that scripts/evidence.sh keeps.
        print(json.dumps({
            'rounds': options.rounds, 'seed': options.seed, **rehearsal.counts, 'instances': len(rehearsal.instances),
            'acknowledged': acknowledged, 'lost': lost, 'doubled': doubled,
            'replica_reads': reader.reads, 'replica_refused': reader.refused,
            'requests_repeated': sum(p.repeated for p in producers), 'schedule_calls': 2 * len(schedule.calls),
            'start_s_median': round(statistics.median(starts), 2), 'start_s_max': round(starts[-1], 2),
            'end_s_max': round(max(rehearsal.ends), 2)}))
    finally:
        rehearsal.stop.set()
        for instance in rehearsal.instances:
            if instance.alive():
                instance.kill()
        subprocess.run([os.path.join(ROOT, 'scripts/s3.sh'), 'stop', os.path.join(work, 's3')])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('rootfs')
    parser.add_argument('--rounds', type=int, default=50)
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument('--memory-mib', type=int, default=0)
    parser.add_argument('--producers', type=int, default=3)
    parser.add_argument('--keep')
    options = parser.parse_args()
    work = options.keep or tempfile.mkdtemp()
    os.makedirs(work, exist_ok=True)
    print('rehearse: %d rounds, SEED=%d' % (options.rounds, options.seed), flush=True)
    try:
        rehearse(options, work)
    except (AssertionError, Failed) as failure:
        print('rehearse: FAILED, SEED=%d: %s' % (options.seed, failure))
        sys.exit(1)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)


main()
