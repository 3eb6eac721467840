#!/usr/bin/env python3
"""Do the checks catch faults? Plants one at a time in a copy of the repository, and wants the check that
is named to fail; without a fault all of them pass. Takes some minutes.
usage: selftest.py [WORD]   only faults whose description has WORD in it
needs: what run.sh needs. exit: 0 all caught, 1 one was missed."""
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
COPIED = ('crates', 'deploy', 'docs', 'examples/nexmark', 'scripts', 'Cargo.toml', 'Cargo.lock', 'LICENSE')
TF = 'deploy/terraform/'
# (check that must fail, what is wrong, file, text, replacement)
FAULTS = [
    ('terraform', 'unknown attribute', TF + 'scheduler.tf', 'time_zone        =', 'timezone         ='),
    ('terraform', 'not formatted', TF + 'secrets.tf', '  role       =', '  role ='),
    ('terraform', 'a writer that sleeps', TF + 'service.tf', 'each.value.always_on ? 1 : 0', '0'),
    ('terraform', 'a second writer', TF + 'service.tf', 'always_on = true\n        max       = 1', 'always_on = true\n        max       = 2'),
    ('terraform', 'storage on everything', TF + 'storage.tf', 'roles/storage.objectUser', 'roles/storage.admin'),
    ('terraform', 'a lifecycle rule that deletes data', TF + 'storage.tf', 'matches_prefix = ["rehearsals/"]', 'matches_prefix = ["kaplan/"]'),
    ('terraform', 'open to everybody', TF + 'variables.tf', '["allUsers", "allAuthenticatedUsers"]', '["nobody"]'),
    ('misconfigurations', 'a public bucket', TF + 'storage.tf', 'uniform_bucket_level_access = true', 'uniform_bucket_level_access = false'),
    ('misconfigurations', 'a key in a file', 'deploy/compose.yaml', 'us-east-1', 'us-east-1\n      KEY: AKIA' + 'IOSFODNN7EXAMPL1'),
    ('misconfigurations', 'a container that may gain rights', 'deploy/kubernetes/base/statefulset.yaml', 'allowPrivilegeEscalation: false', 'allowPrivilegeEscalation: true'),
    ('cloudbuild', 'unknown field of a step', 'deploy/cloudbuild.yaml', 'waitFor: [push]', 'waitsFor: [push]'),
    ('contracts', 'a substitution that Terraform does not give', TF + 'build.tf', '    _JOB       =', '    _JOBS      ='),
    ('contracts', 'an alert on a message that is never logged', TF + 'monitoring.tf', 'a view stopped', 'a view halted'),
    ('contracts', 'a setting that is not there', 'deploy/kubernetes/base/settings.yaml', 'KAPLAN_HTTP', 'KAPLAN_HTTP_ADDRESS'),
    ('contracts', 'a command in one language only', 'deploy/README.de.md', 'gcloud version\n', ''),
    ('dockerfile', 'two images that differ', 'deploy/image/Dockerfile', 'USER 65532:65532', 'USER 0:0'),
    ('dockerfile', 'a bad instruction', 'deploy/Dockerfile', ' && rm -rf /var/lib/apt/lists/*', ''),
    ('compose', 'unknown key of a service', 'deploy/compose.yaml', 'read_only: true', 'readonly: true'),
    ('kubernetes', 'unknown field of a pod', 'deploy/kubernetes/base/statefulset.yaml', 'serviceAccountName', 'serviceAccountsName'),
    ('systemd', 'unknown section of a unit', 'deploy/systemd/kaplan.service', 'ProtectHome=true', 'ProtectHomes=true'),
    ('systemd', 'an exposed service', 'deploy/systemd/kaplan.service', 'CapabilityBoundingSet=\n', ''),
    ('release', 'traffic before the smoke test', 'deploy/release.sh', ' --no-traffic --tag=candidate', ' --tag=candidate'),
    ('release', 'no way back', 'deploy/release.sh', '"$here/smoke.sh" check "$candidate" "$lsn" || go_back', '"$here/smoke.sh" check "$candidate" "$lsn"'),
    ('release', 'a flag that gcloud does not have', 'deploy/README.md', 'gcloud run services proxy kaplan --region', 'gcloud run services proxy kaplan --zone'),
    ('shell', 'an unset variable', 'deploy/smoke.sh', 'say "$url took', 'say "$ulr took'),
]


def run(check, edit):
    with tempfile.TemporaryDirectory() as copy:
        for name in COPIED:
            source, target = os.path.join(ROOT, name), os.path.join(copy, name)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.isdir(source):
                shutil.copytree(source, target, ignore=shutil.ignore_patterns('out', '.terraform', '__pycache__'))
            else:
                shutil.copy(source, target)
        if edit:
            path, text, replacement = os.path.join(copy, edit[0]), edit[1], edit[2]
            with open(path) as f:
                whole = f.read()
            assert text in whole, 'selftest is out of date: %r is not in %s' % (text, edit[0])
            with open(path, 'w') as f:
                f.write(whole.replace(text, replacement, 1))
        done = subprocess.run([os.path.join(copy, 'deploy/check/run.sh'), check], capture_output=True, text=True,
                              env=dict(os.environ, CI='true'))
        return done.returncode, done.stdout + done.stderr


missed = 0
chosen = [f for f in FAULTS if len(sys.argv) < 2 or sys.argv[1] in f[1] or sys.argv[1] == f[0]]
for name in sorted({f[0] for f in chosen}):
    status, said = run(name, None)
    missed += status != 0
    print('%-6s %s without a fault' % ('ok' if status == 0 else 'FAILED', name) + ('' if status == 0 else '\n' + said), flush=True)
for check, what, *edit in chosen:
    status, said = run(check, edit)
    caught = status == 1 and 'FAIL  ' + check in said
    missed += not caught
    print('%-6s %s: %s' % ('ok' if caught else 'MISSED', check, what) + ('' if caught else '\n' + said), flush=True)
print('selftest: %d faults, %d missed' % (len(chosen), missed))
sys.exit(missed > 0)
