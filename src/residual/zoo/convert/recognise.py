"""Which project weights come from."""

from ...errors import CheckpointError
from . import akamaster, caffe, chenyaofo, timm, torchvision, transformers
from .akamaster import renamed
from .foreign import refuse_others
from .source import Converted, WeightsFile

SOURCES = (transformers, timm, caffe, akamaster, chenyaofo, torchvision)  # the last has the commonest keys
UNKNOWN = "unknown"


def recognise(file: WeightsFile) -> Converted:
    """Return weights under our keys and what their source tells; of an unknown project, as they are.

    Raises:
        CheckpointError: they are recognised as those of another kind of network, or a JSON file is damaged.
    """
    refuse_others(file)
    try:
        found = (source.convert(file) for source in SOURCES)
        known = next((converted for converted in found if converted is not None), None)
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{file.origin}: config.json or preprocessor_config.json has a value that does not fit: "
            f"{error!r:.200}"
        ) from error
    return known or Converted(UNKNOWN, renamed(file.state))
