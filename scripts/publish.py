"""Put a trained network into the package: python scripts/publish.py RUN_FOLDER [DATA_FOLDER]."""

import sys
from pathlib import Path

from residual.errors import ResidualError
from residual.reproduce.publish import publish
from residual.training.run_folder import Run

if len(sys.argv) not in (2, 3):
    sys.exit(__doc__)
try:
    run, *data = map(Path, sys.argv[1:])
    print(publish(Run.open(run), data_dir=data[0] if data else None))  # noqa: T201
except ResidualError as error:
    sys.exit(str(error))
