#!/usr/bin/env python3
"""Parse every gcloud command of the pages and scripts with gcloud's own parser, offline: unknown
commands, flags and choices are refused, values and permissions are not seen.
usage: commands.py [FILE..]   each FILE holds further commands, one a line
needs: gcloud. exit: 0 all parse, 1 one does not, 77 no gcloud."""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))


def read(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        return f.read()


def commands():
    """Command lines with variables, which the parser would take for text, replaced by a word."""
    lines = []
    for page in ('deploy/README.md', 'deploy/README.de.md'):
        for block in re.findall(r'^ *```sh\n(.*?)^ *```', read(page), re.M | re.S):
            lines += re.findall(r'(?:^|\$\()\s*(gcloud [^\n]*)', block, re.M)
    for heredoc in re.findall(r'<<-SH\n(.*?)\n *SH\n', read('deploy/terraform/registry.tf'), re.S):
        lines.append(heredoc.replace('\\\n', ' '))
    for path in sys.argv[1:]:
        with open(path, encoding='utf-8') as f:
            lines += [line for line in f.read().splitlines() if line.startswith('gcloud ')]
    for line in lines:
        line = re.sub(r'\$\([^()]*\)|\$\{[^}]*\}|\$\w+', 'a-word-123', line.strip())
        line = line.rstrip(')') if line.count(')') > line.count('(') else line
        yield re.sub(r'[\'"]', '', line.split(' #')[0])


def main():
    if not shutil.which('gcloud'):
        print('gcloud is not installed')
        sys.exit(77)
    lines = sorted({re.sub(r'\s+', ' ', line) for line in commands()})
    with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
        json.dump([{'command_string': line} for line in lines], f)
        f.flush()
        done = subprocess.run(['gcloud', 'meta', 'lint-gcloud-commands', '--commands-file=' + f.name],
                              capture_output=True, text=True)
    if done.returncode:
        print(done.stderr[-500:])
        sys.exit(1)
    answers = json.loads(done.stdout)
    wrong = [a for a in answers if not a['success']]
    for a in wrong:
        print('%s\n    %s' % (a['command_string'], ' '.join((a['error_message'] or '').split())[:200]))
    if len(answers) < 20:
        print('found only %d commands' % len(answers))
    sys.exit(bool(wrong) or len(answers) < 20)


main()
