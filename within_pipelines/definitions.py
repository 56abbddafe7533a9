"""The code location: a table of contents of assets, checks, jobs, schedules and sensors."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from within_pipelines.checks import build_checks
from within_pipelines.jobs import ALL_JOBS, ASSETS
from within_pipelines.resources import build_resources
from within_pipelines.schedules import ALL_SCHEDULES
from within_pipelines.sensors import ALL_SENSORS
from within_pipelines.settings import load_settings, quieten_libraries


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Make the definitions; tests and the command line hand in resources in place of the real ones."""
    quieten_libraries()
    return dg.Definitions(
        assets=dg.load_assets_from_modules(ASSETS),
        asset_checks=build_checks(),
        jobs=ALL_JOBS,
        schedules=ALL_SCHEDULES,
        sensors=ALL_SENSORS,
        resources={**build_resources(load_settings()), **(resource_overrides or {})},
        executor=dg.in_process_executor,
    )


defs = build_defs()
