"""`flairsearch serve`: the index over HTTP, with a page."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote

import typer

from flairsearch.cli.options import DeviceOption, IndexOption
from flairsearch.core.errors import UsageError
from flairsearch.core.settings import check_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flairsearch.serve.app import Api

EXTRA = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}  # modules that the extra brings


def serve_command(
    index: IndexOption = "default",
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free one.")] = 8421,
    token: Annotated[
        str | None, typer.Option(envvar="FLAIRSEARCH_TOKEN", help="What requests must bring.", show_envvar=True)
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Another name it is reached by: that of a proxy.")
    ] = None,
    device: DeviceOption = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Search in the browser, and over HTTP."""
    try:
        from flairsearch.serve import app
        from flairsearch.serve import server as server_module
        from flairsearch.serve.security import is_loopback
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise UsageError('serve needs FastAPI and uvicorn - pip install "flairsearch[serve]"') from None
    names = name or []
    for given in names:
        if set(given) & set(":/"):
            raise UsageError(f"{given} is more than a name - give the host alone, without scheme and port")
    for reached in (host, *names):
        _check_token(token, is_loopback(reached), reached)
    signal.signal(signal.SIGTERM, _stop)
    with server_module.listen(host, port) as listener, suppress(KeyboardInterrupt):  # how it ends
        url = server_module.url_of(host, listener.getsockname()[1])
        page = url if token is None else f"{url}/?token={quote(token, safe='')}"
        with _api(index, device) as api:
            server = server_module.Server(app.create_app(api, host, token, names), lambda: _ready(page, open_page))
            server.run(sockets=[listener])
    typer.echo("flairsearch: the server has stopped", err=True)


@contextmanager
def _api(index: str, device: str) -> Iterator[Api]:
    """What is served, on the index; closed at the end."""
    from flairsearch.engine import Engine
    from flairsearch.serve.app import Api
    from flairsearch.serve.thumbnails import Thumbnails
    from flairsearch.serve.worker import SearchWorker

    with ExitStack() as stack:
        service = stack.enter_context(closing(SearchWorker(lambda: Engine.open(index, device=device, create=False))))
        yield stack.enter_context(closing(Api(service, Thumbnails())))


def _ready(page: str, open_page: bool) -> None:
    """Called once, when it answers."""
    typer.echo(page, err=True)
    if open_page:
        _open_page(page)


def _check_token(token: str | None, is_here: bool, host: str) -> None:
    if token is None and not is_here:
        raise UsageError(f"anybody who reaches {host} could look at the photos - give a token: --token TEXT")
    if token is not None:
        check_token(token)


def _open_page(url: str) -> None:
    """In a thread: some browsers keep who starts them waiting."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _stop(*_: object) -> NoReturn:
    """As Ctrl-C does: answers under way are finished."""
    raise KeyboardInterrupt
