"""write_delta.py TABLE ACTION..: another writer of a Delta table. Actions, in order:
  append:FROM:TO    rows with id, name and, of a new table, the partition column day
  compact           the same rows in fewer files
  vacuum            files that no version of now needs go
  delete:ID         a row goes
"""
import datetime
import sys

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

path, actions = sys.argv[1], sys.argv[2:]
for action in actions:
    what, *numbers = action.split(":")
    numbers = [int(number) for number in numbers]
    if what == "append":
        ids = list(range(*numbers))
        day = [None if i % 3 == 0 else datetime.date(2024, 1, 1 + i % 3) for i in ids]
        rows = pa.table({
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"n{i}" for i in ids], pa.string()),
            "day": pa.array(day, pa.date32()),
        })
        write_deltalake(path, rows, mode="append", partition_by=["day"])
    elif what == "compact":
        DeltaTable(path).optimize.compact()
    elif what == "vacuum":
        table = DeltaTable(path)
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    elif what == "delete":
        DeltaTable(path).delete(f"id = {numbers[0]}")
    else:
        sys.exit(f"no action {action}")
