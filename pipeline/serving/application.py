"""The routes: a page, its endpoint, and a sign of life."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from torch import Tensor

from pipeline.errors import visible
from pipeline.machine.cores import usable_cores
from pipeline.prediction.learner import Learner
from pipeline.prediction.output import as_json
from pipeline.serving.batching import Batcher
from pipeline.serving.uploads import read_pictures

_PAGE = Path(__file__).with_name("page.html")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:"


def application(learner: Learner, *, hosts: list[str], most_bytes: int, most_pictures: int) -> Starlette:
    """The application. hosts: names under which it answers, so that no other site's page can reach it by a name.

    POST /predict takes a form with files, or a picture as the body. It returns {"answers": [...]}, one per picture,
    with "error" where it cannot be read; 422 if none can.
    """
    batcher = Batcher(learner.answer)
    few = CapacityLimiter(usable_cores())  # a picture of a few kilobytes may become 300 MB

    @contextlib.asynccontextmanager
    async def running(_: Starlette) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.run())
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    async def page(_: Request) -> Response:
        return HTMLResponse(_PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": _POLICY})

    async def health(_: Request) -> Response:
        threshold = learner.finished.threshold
        return JSONResponse(
            {
                "status": "ok",
                "tasks": [list(names) for names in learner.finished.tasks],
                "novelty": threshold and threshold.model_dump(),
                "most_bytes": most_bytes,
                "most_pictures": most_pictures,
            }
        )

    async def predict(request: Request) -> Response:
        uploaded = await read_pictures(request, most_bytes=most_bytes, most_pictures=most_pictures)
        decoded = [await to_thread.run_sync(learner.decode, content, limiter=few) for _, content in uploaded]
        answers = iter(await batcher.ask([one for one in decoded if isinstance(one, Tensor)]))
        results = [
            {"image": visible(name), **(as_json(next(answers)) if isinstance(one, Tensor) else {"error": str(one)})}
            for (name, _), one in zip(uploaded, decoded, strict=True)
        ]
        is_read = any("error" not in result for result in results)
        return JSONResponse({"answers": results}, status_code=200 if is_read else 422)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody hears it

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": error.detail}, status_code=error.status_code, headers={"Connection": "close"})

    return Starlette(
        routes=[
            Route("/", page),
            Route("/health", health),
            Route("/predict", predict, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={HTTPException: refused, ClientDisconnect: gone},
        lifespan=running,
    )
