"""`flairsearch serve`: the index over HTTP, with a page."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote

import typer

from flairsearch.errors import UsageError
from flairsearch.options import DeviceOption, IndexOption
from flairsearch.settings import check_token

if TYPE_CHECKING:
    import socket

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
    from flairsearch.guard import is_loopback

    for given in name or ():
        if set(given) & set(":/"):
            raise UsageError(f"{given} is more than a name - give the host alone, without scheme and port")
    for reached in (host, *(name or ())):
        _check_token(token, is_loopback(reached), reached)
    try:
        from flairsearch import serving, web  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise UsageError('serve needs FastAPI and uvicorn - pip install "flairsearch[serve]"') from None
    signal.signal(signal.SIGTERM, _stop)
    with serving.listen(host, port) as listener, suppress(KeyboardInterrupt):  # how it ends
        _serve(listener, index, host, token, name or [], device, open_page)
    typer.echo("flairsearch: the server has stopped", err=True)


def _serve(
    listener: socket.socket,
    index: str,
    host: str,
    token: str | None,
    names: list[str],
    device: str,
    open_page: bool,
) -> None:
    from flairsearch import serving, web
    from flairsearch.engine import Engine
    from flairsearch.service import Service
    from flairsearch.thumbnails import Thumbnails

    service = Service(lambda: Engine.open(index, device=device, create=False))
    api = web.Api(service, Thumbnails())
    port = listener.getsockname()[1]
    url = serving.url_of(host, port)
    page = url if token is None else f"{url}/?token={quote(token, safe='')}"

    def ready() -> None:
        typer.echo(page, err=True)
        if open_page:
            _open_page(page)

    try:
        serving.Server(web.create_app(api, host, token, names), ready).run(sockets=[listener])
    finally:
        api.close()
        service.close()


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
