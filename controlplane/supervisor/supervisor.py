"""Starts everything in the order of its needs, keeps it running, and stops it.

    control database ─ migrate ─┬─ web ───────────────┐
    valkey ─────────────────────┼─ celery, beat       │
    target database ─ rows ─────┴─ seed ──────────────┴─ worker

What stands side by side starts at the same time.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from controlplane.supervisor import plan, seed
from controlplane.supervisor.certificates import Authority
from controlplane.supervisor.children import Child, ChildSpec, keep_logs_small, run_to_end
from controlplane.supervisor.layout import OWNER, PROJECT, ROLE, Layout
from controlplane.supervisor.processes import Register, check_port, locked
from controlplane.supervisor.target import prepare_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from controlplane.supervisor.embedded import Certificate, Postgres

#: Who is stopped together, and for how long: 4.6 s at most. Web after the worker, so that its last records still
#: arrive; what does not, its journal keeps.
STOP_STAGES: Final = (
    (("worker", "celery", "beat"), 2.7),
    (("web",), 0.8),
    (("postgres", "valkey", "target"), 1.1),
)


class Supervisor:
    """One run of everything in `layout`. `report` gets a line for each thing that a person would want to know."""

    def __init__(self, layout: Layout, *, report: Callable[[str], None]) -> None:
        self._layout = layout
        self._report = report
        self._register = Register(layout.home / "processes.json")
        self._children: dict[str, Child] = {}

    async def run(self, *, ready: Callable[[seed.Demo], None]) -> None:
        """Start all, tell `ready`, and go on until cancelled. Raises `ServerError`, `HomeBusy`, `PortTaken`."""
        with locked(self._layout.home):
            self._clear_the_way()
            async with self._stopping_at_the_end(), asyncio.TaskGroup() as group:
                group.create_task(keep_logs_small(self._layout.log_folder, report=self._report), name="keep logs small")
                demo = await self._start()
                await asyncio.to_thread(seed.publish, demo)
                ready(demo)

    def _clear_the_way(self) -> None:
        if left := self._register.end_leftovers():
            self._report(f"ended what an earlier start left: {', '.join(left)}")
        layout = self._layout
        layout.demo_file.unlink(missing_ok=True)
        ports = {"web": layout.web_port, "the PostgreSQL gate": layout.gate_port, "the target": layout.target_port}
        if layout.given_database_url is None:
            ports["PostgreSQL"] = layout.postgres_port
        if layout.given_redis_url is None:
            ports["Valkey"] = layout.valkey_port
        for purpose, port in ports.items():
            check_port(port, purpose)
        layout.make_folders()
        layout.make_secrets()

    async def _start(self) -> seed.Demo:
        authority = Authority(self._layout.tls_folder)
        now = datetime.now(UTC)
        if authority.ensure(now=now):
            self._report("made a local certificate authority")
        authority.ensure_server("gate", now=now)
        target_certificate = authority.ensure_server("target", now=now)
        async with asyncio.TaskGroup() as group:
            database = group.create_task(self._start_database())
            messages = group.create_task(self._start_valkey())
            target = group.create_task(self._start_target(target_certificate))
            await database
            await messages
            for spec in (plan.web(self._layout), plan.celery(self._layout), plan.beat(self._layout)):
                group.create_task(self._start_child(spec))
            demo = await seed.seed(self._layout, target_password=await target, ca_file=authority.ca_file)
            self._report("tenant, agents, target, policy and tokens are set up")
        # The worker enrols over the link, so it comes when web is there.
        began = datetime.now(UTC)
        await self._start_child(plan.worker(self._layout))
        await seed.await_worker(demo, since=began)
        return demo

    async def _start_database(self) -> None:
        layout = self._layout
        if layout.given_database_url is None:
            server = plan.control_postgres(layout)
            await self._start_child(plan.server_child(server, layout.server_environment()))
            await asyncio.to_thread(self._prepare_database, server)
        await run_to_end(
            "migrate",
            plan.manage("migrate", "--no-input", "--verbosity=1"),
            folder=PROJECT,
            log_folder=layout.log_folder,
            environment=layout.migration_environment(),
        )
        self._report("migrated")

    def _prepare_database(self, server: Postgres) -> None:
        server.ensure_role(OWNER, self._layout.secret("database-owner"))
        server.ensure_role(ROLE, self._layout.secret("database"))
        if not server.ensure_database(ROLE, owner=OWNER):
            server.hand_over(ROLE, owner=OWNER, previous=ROLE)  # a home of an earlier version had one role for both

    async def _start_valkey(self) -> None:
        if self._layout.given_redis_url is None:
            spec = plan.server_child(plan.valkey(self._layout), self._layout.server_environment())
            await self._start_child(spec)

    async def _start_target(self, certificate: Certificate) -> str:
        server = plan.target_postgres(self._layout, certificate)
        await self._start_child(plan.server_child(server, self._layout.server_environment()))
        return await asyncio.to_thread(prepare_target, server)

    async def _start_child(self, spec: ChildSpec) -> None:
        child = Child(
            spec,
            folder=PROJECT,
            log_folder=self._layout.log_folder,
            register=self._register,
            report=self._report,
        )
        self._children[spec.name] = child
        started = time.monotonic()
        await child.start()
        self._report(f"{spec.name} is up after {time.monotonic() - started:.1f} s")

    @asynccontextmanager
    async def _stopping_at_the_end(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for names, seconds in STOP_STAGES:
                children = [self._children[name] for name in names if name in self._children]
                await asyncio.gather(*(child.stop(within_seconds=seconds) for child in children))
            self._layout.demo_file.unlink(missing_ok=True)


async def supervise(layout: Layout, *, report: Callable[[str], None], ready: Callable[[seed.Demo], None]) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; then all is stopped. Raises as `Supervisor.run`, in an exception group."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(Supervisor(layout, report=report).run(ready=ready), name="supervisor")
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:  # a second Ctrl-C must not interrupt the stopping
            stopping = True
            report("stopping")
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    try:
        await running
    except asyncio.CancelledError:
        if not stopping:
            raise
