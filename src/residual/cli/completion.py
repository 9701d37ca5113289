"""What the shell completes besides commands and options: names of networks, recipes, data sets, formats."""

from collections.abc import Callable, Iterable

from ..models.names import list_models
from ..zoo.pretrained import list_pretrained


def one_of(names: Iterable[str] | Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a function that completes these names; where none fits, the shell completes files."""

    def complete(incomplete: str) -> list[str]:
        known = names() if callable(names) else names
        return [name for name in known if name.startswith(incomplete)]

    return complete


networks = one_of(list_models)
pretrained = one_of(list_pretrained)
