"""The Dagster instance that finds its own Postgres, so that Dagster's and dg's commands run in the project as such."""

import os
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from within_pipelines.postgres import STORAGE_VARIABLES, prepare_dagster
from within_pipelines.settings import load_settings


class WithinInstance(DagsterInstance):
    """Dagster's own instance; before dagster.yaml's variables are read, those that nobody set are set.

    Examples
    --------
    >>> WithinInstance.config_schema()
    {}
    """

    @classmethod
    def config_schema(cls) -> Mapping[str, Any]:
        """No settings beyond those of any instance."""
        return {}

    @staticmethod
    def config_defaults(base_dir: str) -> Mapping[str, Any]:
        """Start or join the Postgres of the settings, unless a deployment has named its own to Dagster."""
        if any(name not in os.environ for name in STORAGE_VARIABLES):
            prepare_dagster(load_settings())
        return InstanceRef.config_defaults(base_dir)
