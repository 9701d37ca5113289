"""The command `serve`: models behind HTTP."""

import gc
import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..runtime.extras import how_to_install
from .completion import pretrained
from .output import Device, Engine, Json, print_line, print_note

if TYPE_CHECKING:
    from ..inference.classifier import Classifier
    from ..inference.engines import EngineName
    from ..zoo.facts import ModelFacts

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(serve)


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Run folders, model folders, names of pretrained models or hf-hub:USER/NAME.",
            autocompletion=pretrained,
        ),
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = LOOPBACK[0],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="RESIDUAL_TOKEN", help="What clients must send as bearer token.")
    ] = None,
    engine: Engine = "torch",
    calibration: Annotated[
        Path | None, typer.Option(help="For int8: a folder of images that calibrate it.")
    ] = None,
    device: Device = None,
    batch: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Images in a batch at most; default by size.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="Threads that compute; by default one for each core.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Threads that decode images.")] = 2,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Another origin whose pages may use it.")
    ] = None,
    max_megabytes: Annotated[int, typer.Option(min=1, max=1024, help="Of a request's body.")] = 32,
    max_megapixels: Annotated[int, typer.Option(min=1, max=178, help="Of an image.")] = 64,
    max_images: Annotated[int, typer.Option(min=1, max=10_000, help="Of a request.")] = 100,
    queue: Annotated[int, typer.Option(min=1, help="Images that wait at most; then answer 503.")] = 512,
    as_json: Json = False,
) -> None:
    """Serve models over HTTP: a page at /, POST /predict, POST /explain, GET /model."""
    _require_libraries()
    if token is not None and not token.strip():
        raise UsageError("--token is empty")
    from ..serving.limits import Limits
    from ..serving.server import listen

    limits = Limits(
        body_bytes=max_megabytes * 2**20,
        pixels=max_megapixels * 1_000_000,
        images=max_images,
        queue=max(queue, max_images),
        held_bytes=max(256, 4 * max_megabytes) * 2**20,
    )
    bound = listen(host, port)
    with bound:
        served, facts = _load(models, engine, calibration, device, threads)
        from ..serving.app import create_app
        from ..serving.server import create_server

        local = host in LOOPBACK
        if not local and token is None:
            print_note(f"everyone who reaches {host} can use this server: --token sets a password")
        app = create_app(
            served,
            engine=engine,
            facts=facts,
            limits=limits,
            token=token,
            hosts=("127.0.0.1", "localhost", "[::1]") if local else None,
            cors=cors or (),
            workers=workers,
            batch=batch,
        )
        shown = f"[{host}]" if ":" in host else host
        where = f"http://{shown}:{bound.getsockname()[1]}"
        started = f"{', '.join(served)} at {where} (Ctrl-C stops)"
        if as_json:  # in one line, which a program that waits for it can read
            started = json.dumps({"models": list(served), "url": where})
        server = create_server(app, limits, lambda: _announce(started))
        server.run(sockets=[bound])


def _announce(line: str) -> None:
    gc.collect()
    gc.freeze()  # a full collection looks at all that torch has, and would stop every request for 0.1 s
    print_line(line)


def _load(
    models: list[str], engine: str, calibration: Path | None, device: str | None, threads: int | None
) -> tuple[dict[str, "Classifier"], dict[str, "ModelFacts"]]:
    """Load the models; each is named by what was given, or by the folder's name."""
    from typing import cast

    import torch

    from ..inference.classifier import Classifier
    from ..runtime.device import flush_denormals
    from ..zoo.facts import model_facts
    from ..zoo.hub import is_hub_name, repository
    from ..zoo.pretrained import find_model

    flush_denormals()  # and no more of `prepare`: memory goes back to the system after a large image
    if threads is not None:
        torch.set_num_threads(threads)
    served: dict[str, Classifier] = {}
    facts: dict[str, ModelFacts] = {}
    for model in models:
        folder = find_model(model)
        name = repository(model).rpartition("/")[2] if is_hub_name(model) else folder.resolve().name
        if name in served:
            raise UsageError(f"two of the models have the name {name}: rename a folder")
        served[name] = Classifier(
            folder, device=device, engine=cast("EngineName", engine), calibration=calibration
        )
        facts[name] = model_facts(folder)
    return served, facts


def _require_libraries() -> None:
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"serving needs {name}: {how_to_install('serve')}") from error
