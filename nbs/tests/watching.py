"What a test sees of a store that another process writes."

import sqlite3


def count(path, table):
    "Rows of a table that another process is writing; 0 while there is no such file or table."
    if not path.exists():
        return 0
    try:
        return (
            sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            .execute(f"SELECT count(*) FROM {table}")
            .fetchone()[0]
        )
    except sqlite3.Error:
        return 0
