from pipelines.stages.database import connected


def setting(database, name):
    return database.sql(f"SELECT current_setting('{name}')").fetchall()[0][0]


def test_a_database_with_a_limit_lies_in_scratch_and_goes(tmp_path):
    with connected(num_threads=8, memory_bytes=300 * 2**20, scratch=tmp_path) as database:
        assert setting(database, "memory_limit") == "300.0 MiB"
        assert setting(database, "threads") == 2, "what the memory is enough for"
        (folder,) = tmp_path.iterdir()
        assert setting(database, "temp_directory").startswith(str(folder))
        database.execute("CREATE TABLE numbers AS SELECT range AS number FROM range(1000)")
        assert (folder / "tables").is_file()
    assert list(tmp_path.iterdir()) == []


def test_without_a_limit_it_is_in_memory():
    with connected(num_threads=1) as database:
        assert database.sql("SELECT path FROM duckdb_databases() WHERE database_name = 'memory'").fetchall() == [
            (None,)
        ]
