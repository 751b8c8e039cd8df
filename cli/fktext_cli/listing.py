"""What `fktext_cli.evals` takes from here; it is in `common`."""

from fktext_cli.common import load_registry as load_registry
from fktext_cli.common import resolve_device as resolve_device
