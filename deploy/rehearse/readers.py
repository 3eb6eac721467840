"""Who reads beside the writer: a read replica that is asked all the while, and a batch job."""
import json
import os
import subprocess
import threading
import time

from callers import call

HERE = os.path.dirname(os.path.realpath(__file__))
PAUSE_S = 0.3
CATCH_UP_S = 60
COUNTS = ('SELECT (SELECT coalesce(sum(n), 0) FROM by_kind_lambda) AS lambda, '
          '(SELECT coalesce(sum(n), 0) FROM by_kind_kappa) AS kappa')


class Reader(threading.Thread):
    """Asks the replica again and again: two views agree in every answer, and no answer is older than the one
    before. It may refuse (the bucket is busy), never be wrong."""

    def __init__(self, instance, rehearsal):
        super().__init__(daemon=True)
        self.instance, self.rehearsal = instance, rehearsal
        self.seen = self.lsn = self.reads = self.refused = 0
        self.error = self.refusal = None

    def run(self):
        try:
            self.instance.wait_ready()
            while not self.rehearsal.stop.is_set() and not self.error:
                self.ask()
                time.sleep(PAUSE_S)
        except AssertionError as error:
            self.error = 'the replica: %s' % error

    def ask(self):
        headers = {'content-type': 'text/plain'}
        status, body = call(self.instance.url, '/v1/sql', self.rehearsal.token(), COUNTS.encode(), headers)
        if status != 200:
            self.refused += 1
            self.refusal = '%d %s' % (status, body[:500])
            if not self.instance.alive():
                self.error = 'the replica ended:\n' + self.instance.log()[-2000:]
            return
        self.refusal = None
        answer = json.loads(body)
        by_lambda, by_kappa = (int(n) for n in answer['rows'][0])
        lsn = answer['lsn']
        self.reads += 1
        if by_lambda != by_kappa:
            self.error = 'the replica answers %d and %d at LSN %d' % (by_lambda, by_kappa, lsn)
        if by_kappa < self.seen or lsn < self.lsn:
            self.error = 'the replica went back from %d at LSN %d to %d at %d' % (self.seen, self.lsn, by_kappa, lsn)
        self.seen, self.lsn = by_kappa, lsn

    def catch_up(self, acknowledged):
        """At the end it has everything, and has answered most of what it was asked."""
        until = time.monotonic() + CATCH_UP_S
        while self.seen < acknowledged and not self.error:
            if time.monotonic() > until:
                self.error = 'the replica has %d of %d events at LSN %d; its last refusal: %s; what it logged last:\n%s' % (
                    self.seen, acknowledged, self.lsn, self.refusal, self.instance.log()[-4000:])
            self.ask()
            time.sleep(PAUSE_S)
        if not self.error and self.refused > self.reads:
            self.error = 'the replica refused %d reads and answered %d' % (self.refused, self.reads)
        assert not self.error, self.error


def run_job(rehearsal):
    """A batch run by a process of its own; what it says of each view, or None when it failed."""
    command = [os.path.join(HERE, '../check/sandbox.sh'), rehearsal.rootfs, str(rehearsal.memory_mib), '--', 'batch',
               '--data', rehearsal.data]
    done = subprocess.run(command, env=dict(rehearsal.environment, KAPLAN_LOG_FORMAT='gcp'), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise AssertionError('the batch job ended with %d:\n%s' % (done.returncode, done.stderr[-2000:]))
    return [json.loads(line) for line in done.stdout.splitlines()]
