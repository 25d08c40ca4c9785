"""Scopes in the catalogue and in searches, against one photo after the other."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flairsearch.core.dates import clock_seconds
from flairsearch.core.errors import UsageError
from flairsearch.core.filters import Filter
from flairsearch.core.types import Frame, ImageFile
from flairsearch.engine import Engine
from flairsearch.indexing.lifecycle import create_index
from flairsearch.search.policy import DEFAULT_POLICY, SearchPolicy
from flairsearch.store.catalog import Catalog
from flairsearch.store.changeset import Changeset, NewView
from tests.support.bank_encoder import BankEncoder
from tests.support.fake import FakeEncoder, exif_of, expected_score, fake_engine, fake_settings, paint_red

ROOTS = ("/photos", "/photos/inner", "/photos2", "/other disk/ü", "/a")
FOLDERS = ("", "sub/", "sub/deep/", "sub2/", "SUB/", "s%b/", "s_b/", "sub./", "sub0/")
ENDINGS = ("jpg", "JPG", "Jpg", "jpeg", "png", "xjpg", "gif")


@dataclass(frozen=True)
class Photo:
    image: int
    content: int
    root: str
    path: str
    size: int
    taken: int | None
    mtime_ns: int
    sides: tuple[int, int]

    @property
    def absolute(self) -> str:
        return f"{self.root}/{self.path}"

    @property
    def date(self) -> datetime:
        """What the camera wrote; else the file's time."""
        if self.taken is not None:
            return datetime(1970, 1, 1) + timedelta(seconds=self.taken)
        return datetime.fromtimestamp(self.mtime_ns // 10**9)

    def is_in(self, scope: Filter) -> bool:
        """As the issue says it, one thing after the other."""
        if scope.under is not None and not self.absolute.startswith(scope.under.rstrip("/") + "/"):
            return False
        if scope.since is not None and self.date < scope.since:
            return False
        if scope.before is not None and self.date >= scope.before:
            return False
        if scope.larger_than is not None and self.size <= scope.larger_than:
            return False
        if scope.sides is not None and (self.sides[0] < scope.sides[0] or self.sides[1] < scope.sides[1]):
            return False
        return not scope.extensions or self.path.rsplit(".", 1)[1].lower() in scope.extensions


@pytest.fixture(autouse=True, params=["UTC0", "XST-9:30XDT,M3.2.0,M11.1.0"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def some_moment(rng: random.Random) -> datetime:
    """Minutes are few, so that bounds are met; far from where clocks are put back."""
    return datetime(
        rng.choice((2019, 2023, 2024)), rng.choice((1, 5, 12)), rng.choice((1, 17, 31)), 0, rng.choice((0, 59))
    )


def some_scope(rng: random.Random) -> Filter:
    def maybe(make: Callable[[], str]) -> str | None:
        return make() if rng.random() < 0.4 else None

    def date() -> str:
        return some_moment(rng).strftime(rng.choice(("%Y", "%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H:%M")))

    under = maybe(lambda: rng.choice((*ROOTS, "/", "/photos/", "/other disk", "/photos/" + rng.choice(FOLDERS))))
    size = maybe(lambda: rng.choice(("2kB", "3k", "0", "640x480", "480x640", "100x500")))
    since, until = maybe(date), maybe(date)
    if since and until and since > until:
        since, until = until, since
    return Filter(under, since, until, size, [rng.choice(ENDINGS)] if rng.random() < 0.3 else ())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Photo]]:
    """600 images of 400 contents, one content in four without a date; twins differ in folder, size and file's time."""
    rng, folder = random.Random(3), tmp_path_factory.mktemp("index")
    catalog = Catalog(folder, create=True)
    for root in ROOTS:
        catalog.add_root(root)
    sides = [rng.choice(((640, 480), (480, 640), (100, 100), (4000, 500))) for _ in range(400)]
    taken = [None if rng.random() < 0.25 else clock_seconds(some_moment(rng)) for _ in range(400)]
    frames = [Frame(*pair, 0.0, 0.0, 1.0, 1.0) for pair in sides]
    hashes = [number.to_bytes(16, "big") for number in range(400)]
    views = [NewView(hashes[n], n, 0, frames[n], taken[n]) for n in range(400)]
    photos, added = [], []
    for number in range(600):
        content = number if number < 400 else rng.randrange(400)
        root, name = rng.choice(ROOTS), f"{rng.choice(FOLDERS)}{number}.{rng.choice(ENDINGS)}"
        mtime = int(some_moment(rng).timestamp()) * 10**9 + rng.choice((0, 0, 999_999_999))
        size = rng.choice((1999, 2000, 2001, 3000, 3001))
        added.append((ImageFile(root, name, size, mtime), hashes[content]))
        photos.append(Photo(number + 1, content, root, name, size, taken[content], mtime, sides[content]))
    catalog.commit(Changeset((1, 400, "fp16"), views, added))
    catalog.close()
    return folder, photos


@pytest.fixture
def catalog(filled: tuple[Path, list[Photo]]) -> Iterator[Catalog]:
    catalog = Catalog(filled[0])
    yield catalog
    catalog.close()


@pytest.mark.parametrize("seed", range(4))
def test_random_scopes_in_the_catalogue(catalog: Catalog, filled: tuple[Path, list[Photo]], seed: int) -> None:
    rng, photos, sizes = random.Random(seed), filled[1], set()
    state = catalog.state()
    assert state.views is not None
    hashes = catalog.content_hashes(state.views.content.tolist())
    numbers = {content: int.from_bytes(digest, "big") for content, digest in hashes.items()}
    view_of = {numbers[c]: v for v, c in zip(state.views.id.tolist(), state.views.content.tolist(), strict=True)}
    for _ in range(60):
        scope = some_scope(rng)
        inside = [photo for photo in photos if photo.is_in(scope)]
        views = catalog.views_in(scope)
        assert views.dtype == np.int64
        assert views.tolist() == sorted({view_of[photo.content] for photo in inside}), scope
        sizes.add(len(inside))
        chosen = set(views.tolist())
        contents = [c for c in numbers if view_of[numbers[c]] in chosen]
        found = {numbers[c]: images for c, images in catalog.images_of(contents, scope).items()}
        assert found == {
            n: [(p.image, p.absolute) for p in inside if p.content == n] for n in {p.content for p in inside}
        }
    assert len(sizes) > 20


def test_a_folder_without_photos_is_said_and_nothing_else_is(catalog: Catalog) -> None:
    for folder in ("/nowhere", "/photos/su", "/photos/sub/1.jpg", "/photo", "/PHOTOS"):
        with pytest.raises(UsageError, match=f"{folder} holds no indexed photo - see flairsearch status"):
            catalog.views_in(Filter(folder=folder))
    assert len(catalog.views_in(Filter(since="2030"))) == 0
    assert len(catalog.views_in(Filter(folder="/photos/sub", since="2030"))) == 0


def test_far_dates_and_large_sizes_are_only_numbers(catalog: Catalog) -> None:
    everything = len(catalog.views_in(Filter(folder="/")))
    assert everything == 400
    for date in ("0001", "1600", "2600", "9998"):
        assert len(catalog.views_in(Filter(since=date))) == everything * (date < "2000")
        assert len(catalog.views_in(Filter(until=date))) == everything * (date > "2000")
    assert len(catalog.views_in(Filter(larger_than=10**30))) == 0
    assert len(catalog.views_in(Filter(larger_than="999999999GB"))) == 0
    assert len(catalog.views_in(Filter(larger_than="999999999x1"))) == 0


# -- whole searches


def save(path: Path, area: int, taken: datetime | None, saved: datetime, mark: int, size: int) -> None:
    """A photo with so many red patches, an EXIF date, a time of its file, and more bytes with a larger `size`."""
    paint_red(path.with_suffix(".png"), area, mark)
    picture = Image.open(path.with_suffix(".png"))
    picture.load()
    if path.suffix != ".png":
        path.with_suffix(".png").unlink()
    exif = exif_of({0x9003: taken.strftime("%Y:%m:%d %H:%M:%S")} if taken else {}, tag_0x010E="x" * size)
    picture.save(path, exif=exif, dpi=(72 + mark, 72), lossless=True)
    os.utime(path, (saved.timestamp(), saved.timestamp()))


@dataclass
class Album:
    engine: Engine
    photos: list[Photo]
    areas: dict[str, int]

    @property
    def dates(self) -> dict[str, datetime]:
        return {photo.absolute: photo.date for photo in self.photos}

    def expected(self, scope: Filter) -> list[str]:
        """Paths, best first; equal ones by image id."""
        inside = [photo for photo in self.photos if photo.is_in(scope)]
        return [p.absolute for p in sorted(inside, key=lambda p: (-self.areas[p.absolute], p.image))]


def make_album(folder: Path, encoder: FakeEncoder, policy: SearchPolicy = DEFAULT_POLICY) -> Album:
    """90 photos under three roots, one inside another; 20 more are twins, elsewhere and of another time."""
    rng, dates, areas = random.Random(5), {}, {}
    roots = [folder / "one", folder / "one" / "in", folder / "two"]
    for number in range(90):
        name = f"{rng.choice(('', 'a/', 'b/'))}{number}.{rng.choice(('png', 'webp', 'tif'))}"
        path = rng.choice(roots) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = some_moment(rng) if rng.random() < 0.7 else None
        save(path, area := rng.randint(1, 64), taken, some_moment(rng), number, rng.choice((1, 2000)))
        areas[str(path)], dates[str(path)] = area, taken
        if number % 4 == 0:
            twin = rng.choice(roots) / "twins" / path.name
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(path.read_bytes())
            saved = some_moment(rng).timestamp()
            os.utime(twin, (saved, saved))
            areas[str(twin)], dates[str(twin)] = area, taken
    engine = fake_engine(folder / "index", encoder=encoder, policy=policy)
    engine.add(roots)
    photos = []
    for folder_of, number in engine._catalog.roots().items():
        for relative, known in engine._catalog.known(number).items():
            name = f"{folder_of}/{relative}"
            status, taken = os.stat(name), dates[name]
            seconds = None if taken is None else clock_seconds(taken)
            photos.append(
                Photo(known.image, 0, folder_of, relative, status.st_size, seconds, status.st_mtime_ns, (64, 64))
            )
    assert len(photos) == len(areas)
    return Album(engine, photos, areas)


def some_folders(album: Album, rng: random.Random, scope: Filter) -> Filter:
    folders = sorted({os.path.dirname(path) for path in album.areas})
    under = rng.choice(folders) if scope.under else None
    sides = scope.sides and rng.choice(((64, 64), (65, 64), (10, 10)))
    return Filter(under, scope.since, scope.before, scope.larger_than, sides, scope.extensions and ("png", "tif"))


@pytest.mark.parametrize("fitted", [False, True])
def test_random_scopes_in_searches(tmp_path: Path, fitted: bool) -> None:
    """Whole rankings; and ten hits wherever there are ten photos, of a shortlist of ten."""
    few, encoder = SearchPolicy(exhaustive_views=20, max_auto_views=5), BankEncoder() if fitted else FakeEncoder()
    album, rng = make_album(tmp_path, encoder, few if fitted else DEFAULT_POLICY), random.Random(8)
    album.engine.close()
    dates, full, narrow = album.dates, 0, 0
    assert (tmp_path / "index" / "fitted").exists() == fitted
    with fake_engine(tmp_path / "index", encoder=encoder, policy=few) as engine:
        for _ in range(20):
            scope = some_folders(album, rng, some_scope(rng))
            expected = album.expected(scope)
            hits = engine.search("red", 200, "all", filter=scope)
            assert [hit.path for hit in hits] == expected
            assert all(hit.date == dates[hit.path] for hit in hits)
            assert engine.in_scope == len({(album.areas[p], os.path.basename(p)) for p in expected})
            assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
            if not fitted:
                assert [hit.score for hit in hits] == pytest.approx(
                    [expected_score(album.areas[path]) for path in expected], abs=1e-3
                )
            for shortlist in ("auto", 10):
                some = engine.search("red", 10, shortlist, filter=scope)
                assert len(some) == min(10, len(expected))
                assert {hit.path for hit in some} <= set(expected)
                if engine.in_scope <= 10:
                    assert [hit.path for hit in some] == expected[:10]
            first = [hit.path for hit in engine.search("red", 1, filter=scope)]  # by `auto`
            if engine.in_scope <= 20:  # few enough: all of them
                assert (first, engine.reranked) == (expected[:1], [engine.in_scope])
            else:
                assert engine.reranked[0] <= 5 + 0.02 * engine.in_scope
            full += len(expected) >= 10
            narrow += 0 < engine.in_scope <= 10
            together = engine.search_many(["red", "blue", "red"], 5, "all", filter=scope)
            assert [hit.path for hit in together[0]] == [hit.path for hit in together[2]] == expected[:5]
            assert {hit.path for hit in together[1]} <= set(expected)
    assert full > 3
    assert narrow > 3


def test_a_narrow_scope_fills_k(tmp_path: Path) -> None:
    """Twelve photos of the least likely kind among many: without the scope none of them is on the list."""
    for number in range(12):
        save(
            tmp_path / "photos" / "few" / f"{number}.png",
            2,
            datetime(2020, 1, 1 + number),
            datetime(2024, 1, 1),
            number,
            1,
        )
    for number in range(60):
        paint_red(tmp_path / "photos" / f"{number}.png", 60, mark=100 + number)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        assert not any("few" in hit.path for hit in engine.search("red", 10, 10))
        for scope in (
            Filter(folder=tmp_path / "photos" / "few"),
            Filter(until="2023"),
            Filter("/", "2020", "2020-01"),
        ):
            hits = engine.search("red", 10, 10, filter=scope)
            assert len(hits) == 10
            assert all("few" in hit.path for hit in hits)
            assert engine.reranked == [10]
            assert engine.in_scope == 12
        assert len(engine.search("red", 10, filter=Filter(since="2020-01-03", until="2020-01-05"))) == 3


def test_a_scope_follows_what_is_indexed(tmp_path: Path) -> None:
    photos, old = tmp_path / "photos", datetime(2019, 5, 5)
    save(photos / "1.png", 10, None, old, 1, 1)
    save(photos / "2.png", 20, old, datetime(2024, 5, 5), 2, 1)

    def found(scope: Filter) -> list[str]:
        return [Path(hit.path).name for hit in engine.search("red", filter=scope)]

    with fake_engine(tmp_path / "index") as engine:
        engine.add(photos)
        assert found(Filter(until="2019")) == ["2.png", "1.png"]
        os.utime(photos / "1.png", (1.7e9, 1.7e9))  # touched: it has no other date
        os.utime(photos / "2.png", (1.7e9, 1.7e9))
        engine.add()
        assert found(Filter(until="2019")) == ["2.png"]
        (photos / "sub").mkdir()
        (photos / "2.png").rename(photos / "sub" / "3.png")
        engine.add()
        assert found(Filter(until="2019", folder=photos / "sub")) == ["3.png"]
        (photos / "sub" / "3.png").unlink()  # its folder need not be there, but a photo in it
        (photos / "sub").rmdir()
        assert found(Filter(folder=photos / "sub")) == ["3.png"]
        engine.add()
        with pytest.raises(UsageError, match="sub holds no indexed photo"):
            found(Filter(folder=photos / "sub"))
        save(photos / "4.png", 20, old, datetime(2024, 5, 5), 2, 1)  # the same bytes as 2.png's, that were gone
        list(engine.compact())
        engine.add()
        assert found(Filter(until="2019")) == ["4.png"]


def test_views_of_a_lost_segment_are_in_no_scope(tmp_path: Path) -> None:
    paint_red(tmp_path / "photos" / "1.png", 10)
    with fake_engine(tmp_path / "index") as engine:
        engine.add(tmp_path / "photos")
        paint_red(tmp_path / "photos" / "2.png", 20)
        engine.add()
        (tmp_path / "index" / "segments" / "000001.tokens").unlink()
    with fake_engine(tmp_path / "index") as engine:
        hits = engine.search("red", filter=Filter(extension="png"))
        assert [Path(hit.path).name for hit in hits] == ["2.png"]
        assert engine.in_scope == 1


def test_a_thousand_folders_in_one(tmp_path: Path) -> None:
    create_index(tmp_path / "index", fake_settings())
    with closing(Catalog(tmp_path / "index")) as catalog:
        for i in range(1200):
            catalog.add_root(f"/all/{i}")
        image = ImageFile("/all/700", "a.png", 1, 1)
        view = NewView(b"0" * 16, 0, 0, Frame(9, 9, 0, 0, 9, 9))
        catalog.commit(Changeset((1, 1, "fp16"), [view], [(image, view.hash)]))
        assert catalog.views_in(Filter(folder="/all")).tolist() == [1]
        assert catalog.views_in(Filter(folder="/all/700")).tolist() == [1]
        with pytest.raises(UsageError, match="holds no indexed photo"):
            catalog.views_in(Filter(folder="/all/70"))
        assert catalog.images_of([1], Filter(folder="/all")) == {1: [(1, "/all/700/a.png")]}


def test_scopes_go_by_indexes(tmp_path: Path) -> None:
    """A million photos: a plan that walks another table takes several times as long."""
    create_index(tmp_path / "index", fake_settings())
    with closing(Catalog(tmp_path / "index")) as catalog:
        asked: list[str] = []
        catalog.add_root("/r")
        with catalog._database.read() as connection:
            connection.set_trace_callback(asked.append)
        for scope in (Filter(extension="png"), Filter(since="2024"), Filter(larger_than="2MB")):
            catalog.views_in(scope)
            catalog.images_of([1, 2], scope)
        catalog.images_of([1, 2], Filter(folder="/r/sub"))
        queries = [one for one in asked if "images" in one]
        assert len(queries) == 7
        with catalog._database.read() as connection:
            for query in queries:
                plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
                if "INDEXED BY" in query:
                    assert any(step.startswith("SEARCH images USING INDEX ix_images_content") for step in plan), plan
                else:
                    assert any(step.startswith("SEARCH views USING COVERING INDEX") for step in plan), plan
