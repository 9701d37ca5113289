"""The public `push`: a model put on the Hugging Face Hub through huggingface_hub, of the extra `hub`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from .._version import __version__
from ..errors import CheckpointError, ResidualError, RunError, UsageError, in_short
from ..models.network import Network
from ..runtime.files import found, read_bounded, write_text
from .facts import model_facts
from .hub import PREFIX, REPOSITORY, library
from .model_card import ADDRESS, model_card
from .model_folder import ModelConfig, find_config, load_model, save_model
from .pretrained import find_model, open_model

FILES = ("config.json", "model.safetensors", "README.md")
MAX_CARD = 2**20  # bytes
EARLY = "\n    residual evaluate FOLDER\n"  # in cards of early versions, whose front matter has no figures
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def push(model: str | Path | Network, name: str, *, private: bool = False) -> str:
    """Put a model on the Hugging Face Hub, in one commit of its config, weights and card.

    `create_model("hf-hub:USER/NAME")` and every command that takes a model then load it by that name. The
    card is the README.md of the model folder; it may be edited before.

    Args:
        model: a run folder, a model folder, the name of a pretrained model, or a network with a config, such
            as `load_model` gives.
        name: "USER/NAME"; the repository is made if it does not exist, else it gets another commit.
        private: make a repository that only its owner sees.

    Returns:
        The address of the model's page.

    Raises:
        UsageError: the name has another form, there is no token, the model is not one of this package, it
            should be private and the repository is public, or huggingface_hub is not installed.
        CheckpointError: the model cannot be loaded.
        RunError: the hub refuses it, or there is no connection.
    """
    if not re.fullmatch(REPOSITORY, name):
        raise UsageError(f"'{name}' is no name for a model on the hub: give USER/NAME")
    hub = library("pushing")
    if hub.get_token() is None:
        raise UsageError(f"pushing to {name} needs a token of the hub: {LOG_IN}")
    with TemporaryDirectory() as place, _explained(hub, name):
        folder, config = _model_folder(model, Path(place))
        write_text(Path(place) / "card.md", _card(folder, config, name))
        api = hub.HfApi()
        address = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UsageError(
                f"{name} exists and is public: make it private on its page, or give another name"
            )
        paths = {file: folder / file for file in FILES} | {"README.md": Path(place) / "card.md"}
        api.create_commit(
            name,
            [hub.CommitOperationAdd(file, path) for file, path in paths.items()],
            commit_message=f"{config.network}, pushed by residual {__version__}",
        )
    return str(address)


def _model_folder(model: str | Path | Network, place: Path) -> tuple[Path, ModelConfig]:
    """Return the folder of a model, which loads and is whole; that of a network is written in `place`."""
    if isinstance(model, Network):
        network, folder = open_model(model), place
        save_model(folder, network, network.config, "")
    else:
        folder = find_config(find_model(model))
    return folder, load_model(folder).config


def _card(folder: Path, config: ModelConfig, name: str) -> str:
    """Return the folder's own card, or one made now, that calls the model by its name on the hub."""
    path = folder / "README.md"
    try:
        card = read_bounded(path, MAX_CARD).decode() if found(path.is_file) else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not card or EARLY in card:
        facts = model_facts(folder)
        licence = None if facts.licence is None else facts.licence.lower()
        card = model_card(config, {}, measured=facts.measured, licence=licence)
    return card.replace(ADDRESS, PREFIX + name)


@contextmanager
def _explained(hub: ModuleType, name: str) -> Iterator[None]:
    """Turn what the hub or the connection refuses into one line that says what to do."""
    try:
        yield
    except ResidualError:
        raise
    except hub.errors.HFValidationError as error:
        raise UsageError(f"'{name}' is no name for a model on the hub: {in_short(error)}") from error
    except Exception as error:  # of several libraries
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status == 401:
            raise RunError(f"cannot push to {name}: the hub does not know the token: {LOG_IN}") from error
        if status == 403:
            raise RunError(
                f"cannot push to {name}: the token may not write there: take one that may, or a USER or "
                "organization of your own"
            ) from error
        cause = (error.__cause__ if type(error) is RuntimeError else None) or error  # it wraps an upload's
        raise RunError(f"cannot push to {name}: {in_short(cause)}") from error
