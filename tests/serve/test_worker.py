import gc
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.query import ImageExample, Query
from flairsearch.core.request import SearchRequest
from flairsearch.serve.worker import MAX_WAITING, Busy, SearchWorker, Stopped
from tests.support.fake import fake_engine, paint_red

RED = Query("red")
SECONDS = 20


@pytest.fixture
def index(tmp_path):
    for patches in range(4, 16):
        paint_red(tmp_path / "photos" / f"{patches:02d}.png", patches)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
    return tmp_path / "index"


@pytest.fixture
def worker(index):
    worker = SearchWorker(lambda: fake_engine(index), warmup_query="red")
    worker.batches.clear()
    yield worker
    if not worker._stopped:
        worker.close()


@pytest.fixture
def held(worker):
    """An event that the thread of the Engine waits for."""
    entered, go = threading.Event(), threading.Event()
    worker.call(lambda _: (entered.set(), go.wait(SECONDS)))
    assert entered.wait(SECONDS)
    yield go
    go.set()


def request(**options):
    """A search for red."""
    return SearchRequest(RED, **options)


def names(page):
    return [hit.path[-6:-4] for hit in page.result]


def test_an_answer_is_that_of_the_engine(worker, index):
    page = worker.search(request(k=3)).result(SECONDS)
    with fake_engine(index) as engine:
        expected = engine.search(RED, 3)
        assert [(hit.image, hit.score) for hit in page.result] == [(hit.image, hit.score) for hit in expected]
        assert (page.result.stats.views_in_filter, page.result.stats.views_ranked, page.has_more) == (12, 12, True)
        assert (page.result.complete, page.result.warnings) == (True, ())
    assert page.seconds > 0


def test_pages_join_without_gap_or_repeat(worker):
    seen, offset, has_more = [], 0, True
    while has_more:
        page = worker.search(request(k=5, offset=offset)).result(SECONDS)
        assert [hit.rank for hit in page.result] == list(range(offset + 1, offset + 1 + len(page.result)))
        seen, offset, has_more = seen + names(page), offset + 5, page.has_more
    assert seen == [f"{patches:02d}" for patches in range(15, 3, -1)]


def test_the_last_page_knows_that_it_is_full_and_last(worker):
    assert not worker.search(request(k=12)).result(SECONDS).has_more
    assert worker.search(request(k=11)).result(SECONDS).has_more


def test_searches_with_equal_options_are_answered_together(worker, held):
    alike = [worker.search(request(k=2)) for _ in range(3)]
    other = worker.search(request(k=4))
    again = worker.search(request(k=2, filter=Filter(extension="png")))
    held.set()
    assert [len(one.result(SECONDS).result) for one in (*alike, other, again)] == [2, 2, 2, 4, 2]
    assert worker.batches == {3: 1, 1: 2}


def test_an_error_of_one_search_is_no_error_of_another(worker, held):
    good = [worker.search(request()) for _ in range(2)]
    bad = worker.search(SearchRequest(Query("red", image=b"no picture")))
    held.set()
    assert all(one.result(SECONDS).result for one in good)
    with pytest.raises(Exception, match="not a picture"):
        bad.result(SECONDS)


def test_an_unforeseen_error_is_told_to_all_searches_of_a_group(worker, held):
    several = [worker.search(SearchRequest(Query("of no colour"))) for _ in range(3)]
    held.set()
    for one in several:
        with pytest.raises(ValueError, match="unpack"):  # The fake encoder knows only its colours.
            one.result(SECONDS)
    assert worker.batches == {}


def test_an_unforeseen_error_ends_a_request_and_not_the_worker(worker):
    with pytest.raises(ValueError, match="unpack"):  # The fake encoder knows only its colours.
        worker.search(SearchRequest(Query("of no colour"))).result(SECONDS)
    with pytest.raises(ZeroDivisionError):
        worker.call(lambda _: 1 // 0).result(SECONDS)
    assert worker.search(request()).result(SECONDS).result


def test_a_cancelled_search_is_not_answered(worker, held):
    stays, goes = worker.search(request()), worker.search(request())
    assert goes.cancel()
    held.set()
    assert stays.result(SECONDS).result
    with pytest.raises(CancelledError):
        goes.result(SECONDS)
    assert worker.batches == {1: 1}


def test_cancelled_searches_leave_nothing_behind(worker, held):
    """Their images are freed at once, not when their turn comes."""
    gone = []
    for _ in range(3 * MAX_WAITING):
        query = Query(image=ImageExample(bytes(100)))
        gone.append(weakref.ref(query))
        assert worker.search(SearchRequest(query, k=2)).cancel()
    del query
    gc.collect()
    assert not any(one() for one in gone)
    assert worker.waiting == 0
    held.set()
    assert names(worker.search(request(k=1)).result(SECONDS)) == ["15"]


def test_another_index_that_comes_during_the_warm_up_is_opened(index, tmp_path):
    """What the worker knows of an index is read when it is opened, not after the first query."""
    for patches in (20, 30):
        paint_red(tmp_path / "others" / f"{patches}.png", patches)
    with fake_engine(tmp_path / "other") as engine:
        engine.add(tmp_path / "others")
    opened = []

    def open_and_replace():
        engine = fake_engine(index)
        if not opened:
            search = engine.search

            def replace(*asked):
                found = search(*asked)
                index.rename(tmp_path / "old")
                (tmp_path / "other").rename(index)
                return found

            engine.search = replace
        opened.append(engine)
        return engine

    worker = SearchWorker(open_and_replace, warmup_query="red")
    try:
        assert names(worker.search(request(k=9)).result(SECONDS)) == ["30", "20"]
        assert worker.catalog.path_of(1).endswith(("20.png", "30.png"))
    finally:
        worker.close()


def test_a_search_beyond_the_limit_of_the_queue_is_refused(worker, held):
    waiting = [worker.search(request()) for _ in range(MAX_WAITING)]
    assert worker.waiting == MAX_WAITING
    with pytest.raises(Busy, match="ask again"):
        worker.search(request())
    waiting[7].cancel()
    last = worker.search(request())  # It takes the place of the cancelled one.
    held.set()
    assert last.result(SECONDS).result
    assert worker.batches == {MAX_WAITING: 1}


def test_closing_answers_the_searches_that_wait(worker, held):
    waiting = worker.search(request())
    threading.Timer(0.2, held.set).start()
    worker.close()
    with pytest.raises(Stopped):
        waiting.result(SECONDS)
    with pytest.raises(Stopped):
        worker.search(request())


def test_new_photos_are_found(worker, index):
    paint_red(index.parent / "photos" / "63.png", 63)
    with fake_engine(index) as engine:
        engine.add(index.parent / "photos")
    assert names(worker.search(request(k=1)).result(SECONDS)) == ["63"]


def test_another_index_in_the_same_place_is_opened(worker, index):
    paint_red(index.parent / "others" / "50.png", 50)
    with fake_engine(index.parent / "fresh") as engine:
        engine.add(index.parent / "others")
    index.rename(index.parent / "old")
    (index.parent / "fresh").rename(index)
    page = worker.search(request()).result(SECONDS)
    assert names(page) == ["50"]
    assert worker.catalog.path_of(page.result[0].image) == str(index.parent / "others" / "50.png")


def test_a_change_of_codec_is_noticed(worker, index):
    with fake_engine(index) as engine:
        list(engine.compact(codec="int8"))
    assert worker.call(lambda engine: engine.status().codec).result(SECONDS) == "int8"


def test_an_index_that_cannot_be_opened_is_an_error_at_the_start(tmp_path):
    def fail():
        raise UsageError("no such index")

    with pytest.raises(UsageError, match="no such index"):
        SearchWorker(fail)
