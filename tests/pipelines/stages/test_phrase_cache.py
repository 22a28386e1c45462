import multiprocessing

import pytest

from pipelines.stages.phrase_cache import ParsedCaption, Phrase, PhraseCache

OWL = ParsedCaption(caption="an owl", phrases=(Phrase(text="owl", start=3, end=6),))
NOTHING = ParsedCaption(caption="of é", phrases=())


def test_what_is_kept_comes_back_and_no_more(tmp_path):
    many = {f"{i}": OWL for i in range(1200)}  # more than one query asks for
    with PhraseCache(tmp_path / "new", identity="a" * 64) as cache:
        assert cache.recall(["an owl"]) == {}
        cache.keep({"an owl": OWL, "of é": NOTHING, **many})
    with PhraseCache(tmp_path / "new", identity="a" * 64) as cache:
        assert cache.recall(["an owl", "a cat", "of é"]) == {"an owl": OWL, "of é": NOTHING}
        assert cache.recall(list(many)) == many
        assert cache.recall([]) == {}


def test_the_first_of_two_answers_stays(tmp_path):
    with PhraseCache(tmp_path, identity="a") as cache:
        cache.keep({"an owl": OWL})
        cache.keep({"an owl": NOTHING})
        assert cache.recall(["an owl"]) == {"an owl": OWL}


def test_other_settings_have_another_file(tmp_path):
    with PhraseCache(tmp_path, identity="a") as one, PhraseCache(tmp_path, identity="b") as other:
        one.keep({"an owl": OWL})
        assert other.recall(["an owl"]) == {}


def keep_range(folder, start):
    for i in range(start, start + 50):
        with PhraseCache(folder, identity="a") as cache:
            cache.keep({str(i): OWL})


def test_processes_share_the_file(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=keep_range, args=(tmp_path, start)) for start in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with PhraseCache(tmp_path, identity="a") as cache:
        assert len(cache.recall([str(i) for i in range(100)])) == 100


def test_a_damaged_file(tmp_path):
    (tmp_path / "a.sqlite").write_text("not a database, but long enough to be read as one" * 100)
    with pytest.raises(ValueError, match=r"a.sqlite cannot be used \(file is not a database\): delete it"):
        PhraseCache(tmp_path, identity="a")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="the cache of phrases .*cannot be used"):
        PhraseCache(tmp_path / "file", identity="a")
