"""Put a trained network into the package: python scripts/publish.py RUN_FOLDER [DATA_FOLDER]."""

import sys
from pathlib import Path

from residual.reproduce.publish import publish
from residual.run import Run

folder = publish(Run.open(Path(sys.argv[1])), data_dir=Path(sys.argv[2]) if len(sys.argv) > 2 else None)
print(folder)  # noqa: T201
