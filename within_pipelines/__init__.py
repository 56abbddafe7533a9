"""The Dagster side of WITHIN: assets, checks, jobs, schedules, sensors and the command line."""
