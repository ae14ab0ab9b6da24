"""Takes a new version back that answers, but too slowly: what crashes or hangs is the business of the next start."""

import logging
import threading
from collections.abc import Mapping, Sequence

from edge_sdk import errors
from edge_sdk.device.deployment import Deployment
from edge_sdk.device.settings import ModelSettings
from edge_sdk.device.slots.pace import Pace
from edge_sdk.records import telemetry

_LOG = logging.getLogger(__name__)


class Rollback:
    """Holds versions on trial against the limits of their models.

    Args:
        deployment: whose models they are.
        settings: by the model's name; what has no limit there is not judged.
    """

    def __init__(self, deployment: Deployment, settings: Mapping[str, ModelSettings]) -> None:
        self._deployment = deployment
        self._limits_ms = {name: each.p99_limit_ms for name, each in settings.items() if each.p99_limit_ms is not None}
        self._pace = Pace()
        self._condemned: set[str] = set()
        self._due: set[str] = set()

    def judge(self, windows: Sequence[telemetry.Window]) -> None:
        """Begins to exchange what is slower than its limit, where another version may be served.

        Args:
            windows: what every model did in an interval. One thread gives them, one interval after the other.
        """
        if not self._limits_ms:
            return
        on_trial = self._deployment.on_trial()
        self._pace.forget_all_but(model.digest for model in on_trial)
        for model in on_trial:
            limit_ms = self._limits_ms.get(model.name)
            if limit_ms is None or model.digest in self._condemned:
                continue
            excess = self._pace.excess(model.digest, windows, limit_ms)
            if excess and self._deployment.condemn(model, excess):
                self._condemned.add(model.digest)
                self._due.add(model.name)
        for name in list(self._due):
            self._due.remove(name)
            threading.Thread(target=self._exchange, args=(name,), name="roll back", daemon=True).start()

    def _exchange(self, name: str) -> None:
        try:
            self._deployment.replace(name)
        except errors.BusyError:
            self._due.add(name)  # with the next interval
        except errors.EdgeError as error:
            _LOG.warning("%s stays in the version that is too slow: %s", name, error)
