"""An advertising agency with known truth: accounts, campaigns, ads, daily performance, drawn from a seed.

The door of the package: `simulate` makes an `Agency`, `write_landing` writes it like an export, `write_truth`
writes what is true of it into a folder of its own. Reading such files belongs in `within_ml.lake.sources`.

>>> from within_ml.lake.simulation import SimulationConfig, simulate
>>> agency = simulate(SimulationConfig(accounts=3, days=10))
>>> sum(day.num_rows for day in agency.performance()) > 100
True
"""

from within_ml.lake.simulation.agency import Agency, simulate
from within_ml.lake.simulation.config import SimulationConfig
from within_ml.lake.simulation.writing import Written, write_landing, write_truth

__all__ = ["Agency", "SimulationConfig", "Written", "simulate", "write_landing", "write_truth"]
