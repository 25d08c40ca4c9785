"""`flairsearch serve`: search an index in the browser and over HTTP."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import quote

import typer

from flairsearch.cli.options import DeviceOption, IndexOption
from flairsearch.core.blas_threads import use_one_blas_thread
from flairsearch.core.errors import UsageError
from flairsearch.core.settings import check_token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flairsearch.serve.app import Api

SERVE_MODULES = {"fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
"""The modules that the extra `serve` installs."""


def serve_command(
    index: IndexOption = "default",
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than this machine's own needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8421,
    token: Annotated[
        str | None, typer.Option(envvar="FLAIRSEARCH_TOKEN", help="Secret that requests must send.", show_envvar=True)
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="Another host name of this server, for example that of a proxy. May be repeated."
        ),
    ] = None,
    device: DeviceOption = "auto",
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve the index: a page for the browser, and an HTTP API."""
    use_one_blas_thread()
    try:
        from flairsearch.serve import app
        from flairsearch.serve import server as server_module
        from flairsearch.serve.security import is_loopback
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in SERVE_MODULES:
            raise
        raise UsageError('serve needs FastAPI and uvicorn - pip install "flairsearch[serve]"') from None
    names = name or []
    for host_name in names:
        if set(host_name) & set(":/"):
            raise UsageError(f"{host_name} is more than a name - give the host alone, without scheme and port")
    for host_name in (host, *names):
        _check_token(token, is_loopback(host_name), host_name)
    signal.signal(signal.SIGTERM, _stop)
    with server_module.listen(host, port) as listener, suppress(KeyboardInterrupt):  # Ctrl-C ends the server.
        url = server_module.url_of(host, listener.getsockname()[1])
        page = url if token is None else f"{url}/?token={quote(token, safe='')}"
        with _api(index, device) as api:
            server = server_module.Server(app.create_app(api, host, token, names), lambda: _announce(page, open_page))
            server.run(sockets=[listener])
    typer.echo("flairsearch: the server has stopped", err=True)


@contextmanager
def _api(index: str, device: str) -> Iterator[Api]:
    """Open the index for serving, and close it at the end."""
    from flairsearch.engine import Engine
    from flairsearch.serve.app import Api
    from flairsearch.serve.thumbnails import Thumbnails
    from flairsearch.serve.worker import SearchWorker

    with ExitStack() as stack:
        worker = stack.enter_context(closing(SearchWorker(lambda: Engine.open(index, device=device, create=False))))
        yield stack.enter_context(closing(Api(worker, Thumbnails())))


def _announce(page: str, open_page: bool) -> None:
    """Print the page's address, and open it on request; called once, when the server accepts requests."""
    typer.echo(page, err=True)
    if open_page:
        _open_page(page)


def _check_token(token: str | None, is_local: bool, host: str) -> None:
    """Raise UsageError if a token is missing or too weak for a host."""
    if token is None and not is_local:
        raise UsageError(f"everybody who reaches {host} could see the photos - give a token: --token TEXT")
    if token is not None:
        check_token(token)


def _open_page(url: str) -> None:
    """Open the browser in a thread, because some browsers block the caller."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()


def _stop(*_: object) -> NoReturn:
    """Stop as Ctrl-C does; requests in progress are finished first."""
    raise KeyboardInterrupt
