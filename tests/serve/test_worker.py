import gc
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.query import ImageExample, Query
from flairsearch.serve.worker import MOST_WAITING, Busy, How, SearchWorker, Stopped
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
def service(index):
    service = SearchWorker(lambda: fake_engine(index), warm="red")
    service.batches.clear()
    yield service
    if not service._stopped:
        service.close()


@pytest.fixture
def held(service):
    """The Engine's thread waits until this is set."""
    entered, go = threading.Event(), threading.Event()
    service.call(lambda _: (entered.set(), go.wait(SECONDS)))
    assert entered.wait(SECONDS)
    yield go
    go.set()


def names(found):
    return [hit.path[-6:-4] for hit in found.hits]


def test_an_answer_is_that_of_the_engine(service, index):
    found = service.search(RED, How(k=3)).result(SECONDS)
    with fake_engine(index) as engine:
        expected = engine.search(RED, 3)
        assert [(hit.image, hit.score) for hit in found.hits] == [(hit.image, hit.score) for hit in expected]
        assert (found.in_scope, found.ranked, found.more) == (12, 12, True)
    assert found.seconds > 0


def test_pages_join_without_gap_or_repeat(service):
    seen, offset, more = [], 0, True
    while more:
        found = service.search(RED, How(k=5, offset=offset)).result(SECONDS)
        assert [hit.rank for hit in found.hits] == list(range(offset + 1, offset + 1 + len(found.hits)))
        seen, offset, more = seen + names(found), offset + 5, found.more
    assert seen == [f"{patches:02d}" for patches in range(15, 3, -1)]


def test_the_last_page_knows_that_it_is_full_and_last(service):
    assert not service.search(RED, How(k=12)).result(SECONDS).more
    assert service.search(RED, How(k=11)).result(SECONDS).more


def test_those_that_ask_alike_are_answered_at_once(service, held):
    alike = [service.search(RED, How(k=2)) for _ in range(3)]
    other = service.search(RED, How(k=4))
    again = service.search(RED, How(k=2, filter=Filter(extension="png")))
    held.set()
    assert [len(one.result(SECONDS).hits) for one in (*alike, other, again)] == [2, 2, 2, 4, 2]
    assert service.batches == {3: 1, 1: 2}


def test_an_error_of_one_is_no_error_of_the_others(service, held):
    good = [service.search(RED, How()) for _ in range(2)]
    bad = service.search(Query("red", image=b"no picture"), How())
    held.set()
    assert all(one.result(SECONDS).hits for one in good)
    with pytest.raises(Exception, match="not a picture"):
        bad.result(SECONDS)


def test_a_mistake_of_ours_is_told_to_all_of_a_group(service, held):
    several = [service.search(Query("of no colour"), How()) for _ in range(3)]
    held.set()
    for one in several:
        with pytest.raises(ValueError, match="unpack"):  # the fake encoder knows its colours alone
            one.result(SECONDS)
    assert service.batches == {}


def test_what_nobody_foresaw_ends_a_request_and_not_the_service(service):
    with pytest.raises(ValueError, match="unpack"):  # the fake encoder knows its colours alone
        service.search(Query("of no colour"), How()).result(SECONDS)
    with pytest.raises(ZeroDivisionError):
        service.call(lambda _: 1 // 0).result(SECONDS)
    assert service.search(RED, How()).result(SECONDS).hits


def test_who_went_away_is_not_answered(service, held):
    stays, goes = service.search(RED, How()), service.search(RED, How())
    assert goes.cancel()
    held.set()
    assert stays.result(SECONDS).hits
    with pytest.raises(CancelledError):
        goes.result(SECONDS)
    assert service.batches == {1: 1}


def test_requests_that_went_away_leave_nothing_behind(service, held):
    """Their pictures are gone at once, not when their turn comes."""
    gone = []
    for _ in range(3 * MOST_WAITING):
        terms = Query(image=ImageExample(bytes(100)))
        gone.append(weakref.ref(terms))
        assert service.search(terms, How(k=2)).cancel()
    del terms
    gc.collect()
    assert not any(one() for one in gone)
    assert service.waiting == 0
    held.set()
    assert names(service.search(RED, How(k=1)).result(SECONDS)) == ["15"]


def test_an_index_that_takes_its_place_during_the_warm_up_is_opened(index, tmp_path):
    """What the service knows of an index is read when it is opened, not after the first query."""
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

    service = SearchWorker(open_and_replace, warm="red")
    try:
        assert names(service.search(RED, How(k=9)).result(SECONDS)) == ["30", "20"]
        assert service.catalog.path_of(1).endswith(("20.png", "30.png"))
    finally:
        service.close()


def test_more_than_may_wait_are_refused(service, held):
    waiting = [service.search(RED, How()) for _ in range(MOST_WAITING)]
    assert service.waiting == MOST_WAITING
    with pytest.raises(Busy, match="ask again"):
        service.search(RED, How())
    waiting[7].cancel()
    last = service.search(RED, How())  # in the place of who went away
    held.set()
    assert last.result(SECONDS).hits
    assert service.batches == {MOST_WAITING: 1}


def test_the_end_answers_those_who_wait(service, held):
    waiting = service.search(RED, How())
    threading.Timer(0.2, held.set).start()
    service.close()
    with pytest.raises(Stopped):
        waiting.result(SECONDS)
    with pytest.raises(Stopped):
        service.search(RED, How())


def test_photos_that_come_are_found(service, index):
    paint_red(index.parent / "photos" / "63.png", 63)
    with fake_engine(index) as engine:
        engine.add(index.parent / "photos")
    assert names(service.search(RED, How(k=1)).result(SECONDS)) == ["63"]


def test_an_index_that_takes_its_place_is_opened(service, index):
    paint_red(index.parent / "others" / "50.png", 50)
    with fake_engine(index.parent / "fresh") as engine:
        engine.add(index.parent / "others")
    index.rename(index.parent / "old")
    (index.parent / "fresh").rename(index)
    found = service.search(RED, How()).result(SECONDS)
    assert names(found) == ["50"]
    assert service.catalog.path_of(found.hits[0].image) == str(index.parent / "others" / "50.png")


def test_a_codec_that_changes_is_known(service, index):
    with fake_engine(index) as engine:
        list(engine.compact(codec="int8"))
    assert service.call(lambda engine: engine.status().codec).result(SECONDS) == "int8"


def test_an_index_that_cannot_be_opened_is_said_at_the_start(tmp_path):
    def fail():
        raise UsageError("no such index")

    with pytest.raises(UsageError, match="no such index"):
        SearchWorker(fail)
