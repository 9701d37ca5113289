"""Commands on networks and recipes: models, info, recipes, import."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..models.names import list_models, parse_name, resolve_shortcut, resolve_variant
from ..recipes.catalog import RECIPES, get_recipe
from ..recipes.schema import DATASETS, Recipe
from ..runtime.progress import display
from .completion import networks, one_of
from .output import Json, in_millions, print_json, print_line, program

if TYPE_CHECKING:
    from ..zoo.model_folder import ModelConfig

Shortcut = Annotated[
    str | None, typer.Option(help="A, B or C; by default A for CIFAR and B for ImageNet networks.")
]
Variant = Annotated[
    str | None, typer.Option(help="resnet50, 101, 152: v1, stride on the first 1x1, or v1.5, on the 3x3.")
]


def add_to(program: typer.Typer) -> None:
    """Add the commands."""
    for command in (models, info, recipes):
        program.command()(command)
    program.command("import")(import_)


def models(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, for example 'plain*'.")] = "*",
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="List the pretrained models only.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the paper's networks; on CIFAR any other depth 6n+2 (9n+2 with bottlenecks) is valid too."""
    if pretrained:
        _print_pretrained(pattern, as_json)
        return
    from ..models.complexity import complexity

    costs = [complexity(name) for name in list_models(pattern)]
    if as_json:
        print_json([cost.as_dict() for cost in costs])
        return
    print_line(f"{'network':20} {'layers':>6} {'parameters':>12} {'multiply-adds':>15}")
    for cost in costs:
        count = f"{cost.multiply_adds:15,}  {in_millions(cost.multiply_adds)}"
        print_line(f"{cost.name:20} {cost.layers:6} {cost.parameters:12,} {count}")


def _print_pretrained(pattern: str, as_json: bool) -> None:
    from ..zoo.pretrained import list_pretrained, measured

    facts = {name: measured(name) for name in list_pretrained(pattern)}
    if as_json:
        print_json([{"name": name, **found} for name, found in facts.items()])
        return
    print_line(f"{'network':20} {'parameters':>12} {'test error':>10}  recipe")
    for name, found in facts.items():
        print_line(f"{name:20} {found['parameters']:12,} {found['error']:8.2f} %  {found['recipe']}")


def info(
    model: Annotated[str, typer.Argument(help="The network, for example resnet20.", autocompletion=networks)],
    shortcut: Shortcut = None,
    variant: Variant = None,
    as_json: Json = False,
) -> None:
    """Print a network's layers, parameters, multiply-adds and output sizes."""
    parse_name(model)
    resolve_shortcut(model, shortcut)
    resolve_variant(model, variant)
    from ..models.complexity import PAPER_MULTIPLY_ADDS, complexity

    cost = complexity(model, shortcut=shortcut, variant=variant)
    if as_json:
        print_json(cost.as_dict())
        return
    print_line(f"name           {cost.name}")
    if cost.shortcut is not None:
        print_line(f"shortcuts      option {cost.shortcut}")
    if cost.variant is not None:
        print_line(f"variant        {cost.variant}")
    print_line(f"layers         {cost.layers}")
    print_line(f"parameters     {cost.parameters:,} ({in_millions(cost.parameters)})")
    print_line(f"multiply-adds  {cost.multiply_adds:,} ({in_millions(cost.multiply_adds)})")
    if model in PAPER_MULTIPLY_ADDS:
        of_v1 = "" if cost.variant in (None, "v1") else ", for v1"
        print_line(f"in the paper   {PAPER_MULTIPLY_ADDS[model]} G multiply-adds{of_v1}")
    for stage, size in cost.stages.items():
        print_line(f"{stage:13}  {' x '.join(map(str, size))}")


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="A recipe's name or file.", autocompletion=one_of(RECIPES))
    ] = None,
    model: Annotated[str, typer.Option(help="The network to train with it.")] = "resnet20",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of a recipe.")] = False,
    as_json: Json = False,
) -> None:
    """List the recipes, or print one in full, as JSON for --recipe."""
    if schema:
        print_json(Recipe.model_json_schema())
        return
    if name is not None:
        print_json(get_recipe(name, model).as_dict())
        return
    described = {known: (make.__doc__ or "").splitlines()[0] for known, make in RECIPES.items()}
    if as_json:
        print_json([{"name": known, "description": text} for known, text in described.items()])
        return
    width = max(map(len, described))
    for known, text in described.items():
        print_line(f"{known:{width}} {text}")


def import_(
    file: Annotated[str, typer.Argument(help="Another project's checkpoint, or hf-hub:USER/NAME.")],
    output: Annotated[Path, typer.Option(help="The model folder to create.")],
    model: Annotated[
        str | None, typer.Option(help="The network in it, for example resnet50; by default found out.")
    ] = None,
    variant: Variant = None,
    mean: Annotated[tuple[float, float, float] | None, typer.Option(help="R G B, 0..1 scale.")] = None,
    std: Annotated[tuple[float, float, float] | None, typer.Option(help="R G B, 0..1 scale.")] = None,
    zeros: Annotated[
        str | None, typer.Option(help="Where option A pads zeros: 'both' sides (akamaster) or 'last'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert another project's checkpoint to a model folder."""
    if model is not None:
        parse_name(model)
    from ..zoo.convert import importing
    from ..zoo.convert.source import IMAGENET, Options

    importing.refuse_existing(output)
    imported = importing.load_foreign(file, Options(model, variant, mean, std, zeros))
    importing.save_imported(imported, file, output)
    config = imported.config
    if as_json:
        print_json({"folder": str(output), "config": config.as_dict(), "notes": list(imported.notes)})
        return
    print_line(f"{config.network} from {config.recipe}: {output}")
    for note in imported.notes:
        print_line(note)
    if not display.quiet:
        print_line(_what_next(config, output, folder_of_images=config.data == IMAGENET))


def _what_next(config: "ModelConfig", output: Path, folder_of_images: bool) -> str:
    """Say how to go on with an imported model."""
    if config.data in DATASETS:
        return f"next: {program()} evaluate {output}"
    if folder_of_images:
        return f"next: {program()} evaluate {output} --data FOLDER_OF_IMAGES"
    return f"no known data set has {len(config.class_names)} classes; in Python: load_model('{output}')"
