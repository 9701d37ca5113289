"""Models of the Hugging Face Hub, fetched through huggingface_hub, which the extra `hub` installs.

Names are "hf-hub:USER/NAME", or "hf-hub:USER/NAME@REVISION" for a branch, tag or commit. Fetched files stay
in huggingface_hub's cache, which also serves them where there is no connection.
"""

import hashlib
import re
from pathlib import Path
from types import ModuleType
from typing import NoReturn, TypeGuard

from ..errors import CheckpointError, UsageError, in_short
from ..runtime.extras import how_to_install
from ..runtime.files import MAX_CONFIG, MAX_WEIGHTS, read_bounded
from ..runtime.progress import display

PREFIX = "hf-hub:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the second only where the first is missing
CONFIGS = ("config.json", "preprocessor_config.json")
REPOSITORY = r"[\w-][\w.-]*/[\w-][\w.-]*"
_NAME = re.compile(rf"hf-hub:({REPOSITORY})(?:@([\w./-]+))?")


def is_hub_name(name: str | Path) -> TypeGuard[str]:
    """Tell a name of the hub from a file."""
    return isinstance(name, str) and name.startswith(PREFIX)


def repository(name: str) -> str:
    """Return USER/NAME of hf-hub:USER/NAME@REVISION."""
    return name.removeprefix(PREFIX).partition("@")[0]


def fetch(name: str, timeout: float = 10.0) -> Path:
    """Fetch a model's weights and config, or find them in the cache, and return the folder that holds them.

    `timeout` is how many seconds the hub may take for its first answer; if it gives none, it is asked once.

    Raises:
        UsageError: the name has another form, or huggingface_hub is not installed.
        CheckpointError: there is no such model, access to it is restricted, a file is missing, too large, cut
            or altered, or there is no connection and nothing in the cache.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"'{name}' is no name of the hub: give hf-hub:USER/NAME or hf-hub:USER/NAME@REVISION"
        )
    model = _HubModel(name, match[1], match[2], timeout)
    found = (model.file(file, MAX_WEIGHTS) for file in WEIGHTS)
    weights = next((path for path in found if path is not None), None)
    if weights is None:
        model.refuse_missing_weights()
    configs = (model.file(file, MAX_CONFIG) for file in CONFIGS)
    if any(path is not None and path.parent != weights.parent for path in configs):
        raise CheckpointError(f"{name} changed while it was fetched: try again")
    return weights.parent


def library(purpose: str) -> ModuleType:
    """Return huggingface_hub.

    Raises:
        UsageError: it is not installed, and `purpose` needs it.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UsageError(f"{purpose} needs huggingface_hub: {how_to_install('hub')}") from error
    if display.quiet:
        huggingface_hub.utils.disable_progress_bars()  # type: ignore[attr-defined]
    return huggingface_hub


class _HubModel:
    """The files of a model on the hub, or in the cache if the hub does not answer."""

    def __init__(self, name: str, repository: str, revision: str | None, timeout: float) -> None:
        self.hub = library(f"fetching {name}")
        self.name, self.repository, self.revision = name, repository, revision
        self.timeout = timeout
        self.silence: Exception | None = None  # why the hub does not answer

    def file(self, file: str, limit: int) -> Path | None:
        """Return where a file of at most `limit` bytes is in the cache; None if the model has no such file.

        Raises:
            CheckpointError: see `fetch`.
        """
        errors = self.hub.errors
        if self.silence is not None:
            return self._cached(file, limit)
        try:
            facts = self.hub.get_hf_file_metadata(
                self.hub.hf_hub_url(self.repository, file, revision=self.revision), timeout=self.timeout
            )
        except errors.EntryNotFoundError:
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            self._refuse(error)
        except Exception as error:  # of several libraries, where there is no connection
            self.silence = error
            return self._cached(file, limit)
        if facts.size is not None and facts.size > limit:
            raise CheckpointError(
                f"{file} of {self.name} has {facts.size:,} bytes, where at most {limit:,} are expected"
            )
        try:
            path = Path(self.hub.hf_hub_download(self.repository, file, revision=self.revision))
        except Exception as error:
            raise CheckpointError(f"cannot fetch {file} of {self.name}: {in_short(error)}") from error
        _check(path, facts.etag, limit)
        return path

    def _cached(self, file: str, limit: int) -> Path | None:
        found = self.hub.try_to_load_from_cache(self.repository, file, revision=self.revision)
        if not isinstance(found, str):
            return None
        path = Path(found)
        if path.is_symlink():  # to a file that is named by its digest
            _check(path, path.readlink().name, limit)
        return path

    def _refuse(self, error: Exception) -> NoReturn:
        if isinstance(error, self.hub.errors.GatedRepoError):
            reason = "is gated: accept its terms on its page and log in with `hf auth login`"
        elif isinstance(error, self.hub.errors.RevisionNotFoundError):
            reason = f"has no revision '{self.revision}'"
        else:
            reason = "is not on the hub, or is private: check the name, or log in with `hf auth login`"
        raise CheckpointError(f"{self.name} {reason}") from error

    def refuse_missing_weights(self) -> NoReturn:
        """Say why there are no weights.

        Raises:
            CheckpointError: always.
        """
        if self.silence is None:
            raise CheckpointError(f"{self.name} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}")
        raise CheckpointError(
            f"{self.name} is not in the cache, and the hub does not answer: {in_short(self.silence)}"
        ) from self.silence


def _check(path: Path, etag: str | None, limit: int) -> None:
    """Compare a file with its digest: the hub gives SHA-256 for large files, and git's SHA-1 for small ones.

    Raises:
        CheckpointError: they differ.
    """
    try:
        content = read_bounded(path, limit)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    digests = {
        64: lambda: hashlib.sha256(content),
        40: lambda: hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False),
    }
    if etag is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag):
        return
    if digests[len(etag)]().hexdigest() != etag:
        raise CheckpointError(
            f"{path} is cut or altered, by its digest: delete {path.resolve()} and fetch it again"
        )
