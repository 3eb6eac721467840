#!/usr/bin/env python3
"""What two files of the repository must agree on and no linter sees: log messages that alerts look for
and the program writes, substitutions that Terraform fills and Cloud Build uses, settings that
manifests give and the program takes, pages in two languages.
needs: Python >= 3.11. exit: 0 they agree, 1 each disagreement on a line."""
import os
import re
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
wrong = []


def read(*path):
    with open(os.path.join(ROOT, *path), encoding='utf-8') as f:
        return f.read()


def tree(folder, extensions):
    for base, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in names:
            if name.endswith(extensions):
                yield os.path.relpath(os.path.join(base, name), ROOT)


def messages():
    """Every message that a log filter names is written by some tracing macro."""
    sources = '\n'.join(read(path) for path in tree('crates', '.rs'))
    flat = re.sub(r'\\\n\s*', '', sources)
    wanted = set(re.findall(r'jsonPayload\.message=\\"(.*?)\\"', read('deploy/terraform/monitoring.tf')))
    if len(wanted) < 5:
        wrong.append('monitoring.tf: found only %d log messages' % len(wanted))
    for message in wanted:
        if '"%s"' % message not in flat:
            wrong.append('monitoring.tf: the program never logs "%s"' % message)
    for field in set(re.findall(r'jsonPayload\.(\w+)', read('deploy/terraform/monitoring.tf'))) - {'message'}:
        if not re.search(r'\b%s\b' % field, flat):
            wrong.append('monitoring.tf: the program has no field %s' % field)


def substitutions():
    """Terraform gives what cloudbuild.yaml declares, and the release step gets all of it."""
    build = read('deploy/cloudbuild.yaml')
    declared = set(re.findall(r'^  (_[A-Z]+):', build, re.M))
    block = re.search(r'substitutions = \{\n(.*?)\n  \}', read('deploy/terraform/build.tf').split('locals {')[-1], re.S)
    given = set(re.findall(r'(_[A-Z]+) +=', block.group(1)))
    used = set(re.findall(r'\$\{(_[A-Z]+)\}', build))
    if not declared == given == used:
        wrong.append('cloudbuild.yaml: declared %s, used %s, given by terraform %s' % (sorted(declared), sorted(used), sorted(given)))
    release = read('deploy/release.sh')
    for name in re.findall(r'^      - ([A-Z]+)=\$\{_', build, re.M):
        if not re.search(r'\b%s\b' % name, release.split('set -euo')[1]):
            wrong.append('cloudbuild.yaml: release.sh does not know %s' % name)


def settings():
    """Every KAPLAN_ variable below deploy/ is one that the program takes."""
    taken = set()
    for path in tree('crates/cli/src', '.rs'):
        taken |= set(re.findall(r'env = "(KAPLAN_\w+)"', read(path)))
    allowed = taken | {'KAPLAN_PASSWORD'}  # the compose file's own, which it gives to two services
    for path in tree('deploy', ('.tf', '.yaml', '.example', 'Dockerfile', '.toml', '.service', '.md')):
        for name in set(re.findall(r'\bKAPLAN_[A-Z_]+[A-Z]\b', read(path))) - allowed:
            wrong.append('%s: the program takes no %s' % (path, name))


def outline(page):
    """Headings' levels, code blocks and links of a page: what a translation keeps."""
    text = read(page)
    blocks = re.findall(r'^```(?:sh|hcl|sql)\n(.*?)^```', text, re.M | re.S)
    code = [re.sub(r'\s*#.*', '', line) for block in blocks for line in block.splitlines()]
    return [len(h) for h in re.findall(r'^(#+) ', text, re.M)], [line for line in code if line]


def languages():
    (levels, code), (stufen, befehle) = outline('deploy/README.md'), outline('deploy/README.de.md')
    if levels != stufen:
        wrong.append('README.de.md: the headings are not those of README.md')
    for line in set(code) ^ set(befehle):
        wrong.append('README.md and README.de.md: only one of them has `%s`' % line)


for check in (messages, substitutions, settings, languages):
    check()
print(*wrong, sep='\n', end='\n' if wrong else '')
sys.exit(bool(wrong))
