"""Reads a Delta table as a stranger does: with deltalake for Python.

Usage: read_delta.py <table> [name=value ..]     (storage options of a bucket)

Prints its rows as sorted lines a|b|c with its columns in their order, then a line
`app <writer's position>` for each app transaction in its log.
"""

import json
import os
import sys

from deltalake import DeltaTable


def shown(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def main():
    options = dict(option.split("=", 1) for option in sys.argv[2:])
    table = DeltaTable(sys.argv[1], storage_options=options or None)
    rows = table.to_pyarrow_table().to_pylist()
    names = [field.name for field in table.schema().fields]
    for line in sorted("|".join(shown(row[name]) for name in names) for row in rows):
        print(line)
    if not options:
        apps = {}
        for version in range(table.version() + 1):
            log = f"{sys.argv[1]}/_delta_log/{version:020}.json"
            with open(log, encoding="utf-8") as actions:
                for action in map(json.loads, actions):
                    if "txn" in action:
                        apps.setdefault(action["txn"]["appId"], []).append(action["txn"]["version"])
        for versions in apps.values():
            assert versions == sorted(set(versions)), f"a change was written twice: {versions}"
            print("app", versions[-1])


if __name__ == "__main__":
    main()
    # Everything is read. Arrow's threads and those of the bucket's client now and then abort an
    # interpreter that takes itself down in the usual way.
    sys.stdout.flush()
    os._exit(0)
