#!/usr/bin/env python3
"""Print the list of parts of the program (CycloneDX 1.5, JSON): every crate that kaplan-cli is
built from, with version, licence and checksum, and the Debian packages of the shared libraries whose
files are given as arguments. Tests' dependencies are left out.
needs: cargo (metadata), Python >= 3.11; dpkg for libraries. exit: 1 when a part cannot be told."""
import json
import os
import subprocess
import sys
import tomllib

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
TARGET = 'x86_64-unknown-linux-gnu'


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def reached(nodes, root):
    """Ids of what `root` is built from, through normal and build dependencies."""
    seen, pending = set(), [root]
    while pending:
        package = pending.pop()
        if package in seen:
            continue
        seen.add(package)
        for dep in nodes[package]['deps']:
            if any(kind['kind'] != 'dev' for kind in dep['dep_kinds']):
                pending.append(dep['pkg'])
    return seen


def purl(package):
    return 'pkg:cargo/%s@%s' % (package['name'], package['version'])


def crate(package, checksums):
    out = {'type': 'library', 'bom-ref': purl(package), 'name': package['name'],
           'version': package['version'], 'purl': purl(package)}
    if package.get('license'):
        out['licenses'] = [{'expression': package['license'].replace('/', ' OR ')}]
    if (package['name'], package['version']) in checksums:
        out['hashes'] = [{'alg': 'SHA-256', 'content': checksums[package['name'], package['version']]}]
    return out


def library(path):
    """The Debian package that a shared library comes from."""
    for candidate in (path, os.path.realpath(path), path.removeprefix('/usr')):
        found = subprocess.run(['dpkg-query', '-S', candidate], capture_output=True, text=True)
        if found.returncode == 0:
            name = found.stdout.split(': ')[0].split(',')[0]
            version = output('dpkg-query', '-W', '-f', '${Version}', name)
            name = name.split(':')[0]
            return {'type': 'library', 'bom-ref': 'pkg:deb/debian/%s@%s' % (name, version),
                    'name': name, 'version': version, 'purl': 'pkg:deb/debian/%s@%s' % (name, version)}
    sys.exit('sbom: no package owns %s' % path)


def main():
    metadata = json.loads(output('cargo', 'metadata', '--format-version', '1', '--locked', '--filter-platform', TARGET))
    with open(os.path.join(ROOT, 'Cargo.lock'), 'rb') as lock:
        checksums = {(p['name'], p['version']): p['checksum'] for p in tomllib.load(lock)['package'] if 'checksum' in p}
    packages = {p['id']: p for p in metadata['packages']}
    nodes = {n['id']: n for n in metadata['resolve']['nodes']}
    root = next(p['id'] for p in packages.values() if p['name'] == 'kaplan-cli')
    ids = reached(nodes, root)
    parts = {purl(packages[i]): crate(packages[i], checksums) for i in ids if i != root}
    depends = [{'ref': purl(packages[i]),
                'dependsOn': sorted({purl(packages[d['pkg']]) for d in nodes[i]['deps'] if d['pkg'] in ids})}
               for i in ids]
    parts.update((part['bom-ref'], part) for part in map(library, sys.argv[1:]))
    document = {
        'bomFormat': 'CycloneDX', 'specVersion': '1.5', 'version': 1,
        'metadata': {'component': {'type': 'application', 'bom-ref': purl(packages[root]), 'name': 'kaplan',
                                   'version': packages[root]['version'], 'purl': purl(packages[root])}},
        'components': [parts[ref] for ref in sorted(parts)],
        'dependencies': sorted(depends, key=lambda d: d['ref']),
    }
    json.dump(document, sys.stdout, sort_keys=True, separators=(',', ':'))
    print()


main()
