"""MLflow. Its own settings apply: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and the credentials."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

from PIL.Image import Image

from ...errors import UsageError
from ..run_folder import Run

KINDS = ("train", "validation", "test")  # of records; each record has an error
# seconds and tries, lest a server that is away holds up training for minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}


class MLflow:
    """A run of MLflow, in the experiment "residual" unless MLFLOW_EXPERIMENT_NAME says otherwise.

    MLflow keeps all values of a step, so records that a resume repeats are left out: those of before stay.
    """

    def __init__(self, run: Run, remote_id: str | None) -> None:
        for key, value in PATIENCE.items():
            os.environ.setdefault(key, value)
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client = _client(mlflow)
        if remote_id is None:
            self.remote_id = self._create(run)
        else:
            self.remote_id = remote_id
            self._client.update_run(remote_id, status="RUNNING")
        histories = (self._client.get_metric_history(self.remote_id, f"{kind}/error") for kind in KINDS)
        self.sent = sum(map(len, histories))
        self.place = f"MLflow: run {self.remote_id}"

    def _create(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "residual")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        created: str = self._client.create_run(experiment, run_name=run.path.name).info.run_id
        flat = run.recipe.flat()
        self._client.log_batch(created, params=[self._entities.Param(key, str(flat[key])) for key in flat])
        return created

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a record."""
        now = round(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.remote_id, metrics=metrics)

    def finish(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, Image]) -> None:
        """Log the figures of the result as metrics, and the pictures as artifacts."""
        self.scalars(step, {f"result/{name}": value for name, value in figures.items()})
        for name, picture in pictures.items():
            self._client.log_image(self.remote_id, picture, f"{name}.png")

    def close(self, ended: bool) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self.remote_id, "FINISHED" if ended else "KILLED")


def _client(mlflow: Any) -> Any:
    """Open the store; that of mlflow-skinny, which has no database, is a server."""
    try:
        return mlflow.MlflowClient()
    except Exception as error:
        where = mlflow.get_tracking_uri().partition(":")[0]
        raise UsageError(
            f"mlflow-skinny has no store for '{where}': set MLFLOW_TRACKING_URI to a server's address, or "
            "install the whole of mlflow"
        ) from error


def open_run(run: Run, remote_id: str | None) -> MLflow:
    """Begin a run of MLflow, or go on with one."""
    return MLflow(run, remote_id)
