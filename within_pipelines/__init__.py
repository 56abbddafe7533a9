"""The Dagster side of WITHIN: assets, checks, jobs, schedules, sensors and the command line."""

import warnings

# Dagster announces the parts of its interface that may still change each time one is used; the versions are locked.
warnings.filterwarnings("ignore", message=r".* is currently in (beta|preview),")
