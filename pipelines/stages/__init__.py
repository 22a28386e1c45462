"""Pipeline stages, one verb a file: a table in, a table out, without Ray, Dagster, or where the tables are stored."""
