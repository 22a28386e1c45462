"""One verb a file. A stage maps a table to a table and knows neither Ray nor Dagster nor where its table is stored."""
