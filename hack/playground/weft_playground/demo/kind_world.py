"""The demo in a kind cluster: everything but the load runs in pods, on real kubelets, installed by the chart."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from weft_dev import kind_site
from weft_dev.commands import CommandError
from weft_dev.kind_site import KindSite
from weft_dev.processes import ProcessGroup
from weft_playground.case import AUTO, MODES, PAUSED, Case
from weft_playground.demo.load_run import LoadRun
from weft_playground.demo.manifests import Examples, namespace_object, with_plain_pods
from weft_playground.demo.narrator import Narrator
from weft_playground.lag import Lag, lags_behind

NAMESPACES = (AUTO, PAUSED, "demo", "monitoring")


@dataclass
class KindWorld:
    """A context manager: the cluster stays at its end, for the next run; `remove` takes everything out of it."""

    case: Case
    logs: Path | None = None
    processes: ProcessGroup = field(init=False)
    load: LoadRun = field(init=False)
    fronts: dict[str, str] = field(default_factory=dict)
    examples: Examples = field(default_factory=with_plain_pods)
    namespaces = tuple(MODES)
    replicas_text = "each a plain pod that counts as 2 GPUs"
    stopped_text = "the load has ended; the next run, or make kind-down, removes what is in the cluster"
    _site: KindSite | None = None
    _reserved: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _last_log: str = ""

    def __post_init__(self) -> None:
        self.examples = self.examples.with_engine_argument(f"--seed={self.case.seed}")

    def __enter__(self) -> Self:
        self.processes = ProcessGroup(prefix="weft-demo-")
        self.load = LoadRun(self.processes, self.case)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep_logs()
        self.processes.close()
        self._reserved.close()

    @property
    def site(self) -> KindSite:
        assert self._site is not None
        return self._site

    prometheus_url = ""
    """It is in the cluster, and nothing here forwards to it."""

    async def start_cluster(self, narrator: Narrator) -> Path:
        """The cluster with this clone's images; returns its kubeconfig.

        Raises ContainerError where another run has the cluster.
        """
        self._reserved.enter_context(kind_site.reserved())
        with narrator.waiting("a kind cluster with Weft's images", 30):
            self._site = await asyncio.to_thread(kind_site.prepare, narrator.say)
            await asyncio.to_thread(self.site.clean, *NAMESPACES)
        narrator.say("a kind cluster runs: a control plane and two workers, real kubelets and containers")
        return self.site.cluster.kubeconfig

    async def start_services(self, narrator: Narrator) -> None:
        """Prometheus, the chart with the fabric managers, routers."""
        with narrator.waiting("helm install, Prometheus and two routers", 30):
            await asyncio.to_thread(self._start_services)
        narrator.say(
            "helm installed Weft (two replicas) and two fabric managers (Redfish over HTTPS): one has 16 GPUs and"
            " composes systems, the other has CXL memory and makes connections; Prometheus (a scrape each second)"
            " and two routers run"
        )

    def _start_services(self) -> None:
        site = self.site
        site.start_prometheus()
        site.kubectl.apply([namespace_object(name) for name in (AUTO, PAUSED)])
        for name in (AUTO, PAUSED):
            site.start_router(name, self.examples.group_name)
        site.install()
        site.wait_for_rollouts("monitoring", AUTO, PAUSED)
        self.fronts = {name: site.front(name) for name in (AUTO, PAUSED)}

    async def remove(self, narrator: Narrator) -> None:
        """Everything but the cluster itself."""
        await asyncio.to_thread(self._keep_logs)
        self._last_log = await asyncio.to_thread(self.operator_log)
        with narrator.waiting("helm uninstall", 15):
            await asyncio.to_thread(self.site.clean, *NAMESPACES)
        narrator.say(
            "helm uninstalled Weft; the cluster stays for the next run (`make kind-down` removes it)"
        )

    def _keep_logs(self) -> None:
        # Once: when everything is removed there is nothing to keep any more.
        if self.logs is not None and self._site is not None and not self._last_log:
            self.site.collect(self.logs)

    def check(self) -> None:
        """Nothing to watch here: what ends in the cluster is started again by it."""

    def lags(self) -> list[Lag]:
        """How late everything ran so far. Needs the replicas and the ended load."""
        return [*self.load.lags(), *lags_behind(self.fronts.values())]

    def counted(self) -> tuple[list[str], list[str]]:
        """Nothing besides."""
        return [], []

    def journal_lines(self) -> list[str]:
        """Both fabrics' journals as one."""
        return self.site.journal_lines()

    def operator_log(self) -> str:
        """Its end, of both replicas."""
        if self._last_log or self._site is None:
            return self._last_log
        selector = ("-l", "app.kubernetes.io/component=operator", "--prefix", "--tail=20")
        try:
            return self.site.kubectl("-n", self.site.release.namespace, "logs", *selector)
        except CommandError as error:
            return str(error)

    def to_look_at(self) -> str:
        """What a user may type while everything stays up."""
        kubectl = f"  kubectl --kubeconfig {shlex.quote(str(self.site.cluster.kubeconfig))}"
        return "\n".join(
            (
                f"  .venv/bin/weft status --kubeconfig {shlex.quote(str(self.site.cluster.kubeconfig))}",
                f"{kubectl} -n {AUTO} get pods --show-labels",
                f"{kubectl} -n monitoring port-forward service/prometheus 9090:80",
                *(f"  {name}: {url}/v1/completions" for name, url in self.fronts.items()),
            )
        )
