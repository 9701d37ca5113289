"""The server's routes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive

from .._version import __version__
from ..inference.classifier import Classifier
from ..zoo.facts import ModelFacts
from . import schemas
from .batcher import Job
from .guard import Guard, problem
from .limits import Limits, Refused
from .service import Service
from .upload import Upload, read_uploads

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": ("index.html", "text/html"), "/style.css": ("style.css", "text/css")}
PAGE_FILES["/page.js"] = ("page.js", "text/javascript")
LARGEST_TOP = 10_000  # more classes than any network has; a number of a million digits takes long to read


def create_app(
    models: Mapping[str, Classifier],
    *,
    engine: str = "torch",
    facts: Mapping[str, ModelFacts] | None = None,
    limits: Limits | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
    cors: Sequence[str] = (),
    workers: int = 2,
    batch: int | None = None,
) -> FastAPI:
    """Make the application; its lifespan starts and ends the threads.

    Args:
        models: by name; the first one is the default.
        engine, facts, limits, workers, batch: see `Service`.
        token, hosts: see `Guard`.
        cors: other origins whose pages may use the server.
    """
    service = Service(models, engine, facts or {}, limits or Limits(), workers, batch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="residual",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # it loads outside resources
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = _Direct
    app.state.service = service
    _add_predictions(app, service)
    _add_facts(app, service)
    _add_page(app)

    @app.exception_handler(Refused)
    async def refuse(_: Request, refused: Refused) -> Response:
        return problem(refused)

    paths = [path for route in app.routes if (path := getattr(route, "path", None))]
    app.add_middleware(
        Guard, limits=service.limits, metrics=service.metrics, paths=paths, token=token, hosts=hosts
    )
    if cors:
        headers = ["Authorization", "Content-Type"]
        app.add_middleware(
            CORSMiddleware, allow_origins=cors, allow_methods=["GET", "POST"], allow_headers=headers
        )
    return app


class _Direct(APIRoute):
    """Calls the endpoint with the request: FastAPI's own handler takes a tenth of the time of an image."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


def _add_predictions(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.post(
        "/predict",
        openapi_extra=schemas.PREDICT,
        responses={200: {"model": schemas.PredictAnswer}, **schemas.PROBLEMS},
    )
    async def predict(request: Request) -> Response:
        """Classify images: the fields `file` of a form, or one image as the body."""
        name, top = service.find(request.query_params.get("model")), _top(request, 5)
        with service.memory.share() as share:
            uploads = await read_uploads(request, limits, share)
            job = service.batchers[name].submit([upload.content for upload in uploads], top)
            await _answered(job.done, request.receive, limits.answer_seconds)
        return _answer(name, uploads, job)

    @app.post(
        "/explain",
        openapi_extra=schemas.EXPLAIN,
        responses={200: {"model": schemas.ExplainAnswer}, **schemas.PROBLEMS},
    )
    async def explain(request: Request) -> Response:
        """Show by Grad-CAM which places of an image speak for its likeliest classes."""
        name, top = service.find(request.query_params.get("model")), _top(request, 3)
        with service.memory.share() as share:
            uploads = await read_uploads(request, limits, share)
            if len(uploads) > 1:
                raise Refused(413, "one image at a time can be explained")
            done = service.explain(name, uploads[0].content, top, request.query_params.get("stage"))
            found = await _answered(done, request.receive, limits.answer_seconds)
        return JSONResponse({"model": name, "path": uploads[0].name, **found})


def _add_facts(app: FastAPI, service: Service) -> None:
    limits = service.limits

    @app.get("/model", responses={200: {"model": schemas.ModelsAnswer}})
    async def model(_: Request) -> Response:
        """Say which models there are, and what is known of them."""
        return JSONResponse(service.describe())

    @app.get("/limits", responses={200: {"model": schemas.LimitsAnswer}})
    async def of_a_request(_: Request) -> Response:
        """Say what a request may have."""
        return JSONResponse(
            {"body_bytes": limits.body_bytes, "pixels": limits.pixels, "images": limits.images}
        )

    @app.get("/health", responses={200: {"model": schemas.State}})
    async def health(_: Request) -> Response:
        """Say that the server runs."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", responses={200: {"model": schemas.State}, 503: {"model": schemas.Problem}})
    async def ready(_: Request) -> Response:
        """Say whether it answers without delay: not while it starts or stops."""
        if service.ready:
            return JSONResponse({"status": "ready"})
        return problem(Refused(503, "stopping" if service.stopping else "starting"))

    @app.get("/metrics")
    async def metrics(_: Request) -> Response:
        """Return counters for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    for path, (name, kind) in PAGE_FILES.items():
        file = PAGE / name
        if file.is_file():
            app.add_route(path, _unchanging(file.read_bytes(), kind), include_in_schema=False)


def _unchanging(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def _top(request: Request, default: int) -> int:
    text = request.query_params.get("top", str(default))
    top = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if top < 1:
        raise Refused(422, "top must be a whole number, 1 or more")
    return min(top, LARGEST_TOP)


async def _answered(done: asyncio.Future[Any], receive: Receive, seconds: float) -> Any:
    """Wait for a result; if the client goes or the time is over, cancel it.

    Raises:
        Refused: 503, the time is over; or 400, the client is gone.
    """
    timer = asyncio.get_running_loop().call_later(seconds, done.cancel)
    watcher = asyncio.create_task(_cancel_when_gone(done, receive))
    try:
        return await done
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        if watcher.done():
            raise Refused(400, "the client is gone") from None
        raise Refused(503, f"there was no result after {seconds:g} seconds: try again") from None
    finally:
        timer.cancel()
        watcher.cancel()


async def _cancel_when_gone(done: asyncio.Future[Any], receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    done.cancel()


def _answer(name: str, uploads: Sequence[Upload], job: Job) -> Response:
    images: list[dict[str, Any]] = []
    refusals: list[Refused] = []
    for upload, outcome in zip(uploads, job.outcomes, strict=True):
        if isinstance(outcome, list):
            found = [{"class": best.class_name, "probability": best.probability} for best in outcome]
            images.append({"path": upload.name, "predictions": found})
        elif outcome is not None:
            images.append({"path": upload.name, "error": outcome.detail})
            refusals.append(outcome)
    if len(refusals) == len(images):
        return problem(refusals[0], model=name, images=images)
    return JSONResponse({"model": name, "images": images})
