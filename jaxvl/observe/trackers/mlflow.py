# SPDX-License-Identifier: Apache-2.0
"""MLflow. MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME and keys are read by its own package."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from jaxvl.observe.trackers import Table, TrackedRun

_REFUSED = re.compile(r"[^\w\-./: ]", re.ASCII)  # in names of metrics


def start(place: TrackedRun) -> tuple[MLflow, str]:
    """See `trackers.start`."""
    import mlflow

    client = mlflow.MlflowClient()
    if place.known:
        client.update_run(place.known, status="RUNNING")
        return MLflow(client, place.known), place.known
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "jaxvl")
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    run_id = client.create_run(experiment, run_name=place.name).info.run_id
    client.log_dict(run_id, dict(place.settings), "config.json")
    return MLflow(client, run_id), run_id


class MLflow:
    """See `trackers.Tracker`."""

    def __init__(self, client: Any, run_id: str):
        self.client, self.run_id = client, run_id

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(_REFUSED.sub("_", name), x, now, step) for name, x in metrics.items()]
        for at in range(0, len(found), 1000):  # of which a request holds no more
            self.client.log_batch(self.run_id, metrics=found[at : at + 1000])

    def show(self, step: int, table: Table) -> None:
        import mlflow
        from PIL import Image

        columns: dict[str, list[Any]] = {
            name: [row[at] for row in table.rows] for at, name in enumerate(table.columns)
        }
        columns["images"] = [[mlflow.Image(Image.open(file)) for file in of] for of in table.images]
        self.client.log_table(self.run_id, columns, f"completions/step_{step}.json")

    def close(self, failed: bool) -> None:
        self.client.set_terminated(self.run_id, "KILLED" if failed else "FINISHED")
