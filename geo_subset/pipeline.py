"""Which stages there are, in which order, and what of them is done already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType

from geo_subset import events, lease, runfolder, stopping
from geo_subset.manifests import Manifest, Progress
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings, dumps


@dataclass(frozen=True)
class Stage:
    """A stage's module offers content, inputs, run and describe; check, where settings need more than their types; and
    needs_cluster, where that depends on them."""

    name: str
    module_name: str
    on_cluster: bool

    @property
    def module(self) -> ModuleType:
        return import_module(self.module_name)  # late: some stages import heavy packages

    def needs_cluster(self, settings: Settings) -> bool:
        return self.on_cluster or (hasattr(self.module, "needs_cluster") and self.module.needs_cluster(settings))


STAGES = (
    Stage("places", "geo_subset.places.stage", on_cluster=False),
    Stage("retrieve", "geo_subset.retrieve.stage", on_cluster=True),
    Stage("merge", "geo_subset.merge", on_cluster=True),
    Stage("download", "geo_subset.download.stage", on_cluster=True),
    Stage("report", "geo_subset.report.stage", on_cluster=False),
)


#: What some stages do first, in a folder of its own; its units are what there is to see until then.
_BEFOREHAND = {"places": ("gather",), "retrieve": ("texts", "scan", "best", "rows"), "merge": ("shuffle",)}


@dataclass(frozen=True)
class Result:
    """What `run` did about a stage."""

    stage: str
    manifest: Manifest
    skipped: bool


def check(settings: Settings) -> None:
    """Everything about the settings that their types cannot say. Raises SettingsError."""
    for stage in STAGES:
        if hasattr(stage.module, "check"):
            stage.module.check(settings)


def run(settings: Settings, last: str = "report", address: str | None = None) -> list[Result]:
    """Runs the stages up to `last`, skipping what is done. Starts or joins a Ray cluster only if a stage needs it.

    Raises SettingsError before anything starts; StageError when a stage cannot finish, with what is done kept, or when
    another driver works on the run folder.
    """
    check(settings)
    results = []
    with ExitStack() as stack:
        stack.enter_context(lease.held(runfolder.open_run(settings.run)))
        run_url = runfolder.open_run(settings.run, dumps(settings))
        connected = False
        for stage in _up_to(last):
            stopping.check()
            stack.enter_context(events.about(run=run_url, stage=stage.name))
            folder = _folder(stage, settings, run_url)
            manifest = folder.finished()
            skipped = manifest is not None
            if manifest is None:
                if stage.needs_cluster(settings) and not connected:
                    from geo_subset import cluster, nodes

                    stack.enter_context(cluster.connect(settings.cluster, address))
                    nodes.check()
                    connected = True
                events.event("stage started")
                manifest = stage.module.run(settings, folder)
            did = "done already:" if skipped else f"{manifest.seconds:.1f} s:"
            events.event(
                "stage done", f"{stage.name:<9} {did} {stage.module.describe(manifest)}",
                skipped=skipped, seconds=manifest.seconds, counters=manifest.counters, **manifest.usage,
            )  # fmt: skip
            results.append(Result(stage.name, manifest, skipped))
    return results


def status(settings: Settings) -> Iterator[tuple[str, Progress]]:
    """How far each stage is. A stage after an unfinished one is 'out of date' if anything is there, else 'waiting'."""
    run_url = runfolder.open_run(settings.run)
    before_done = True
    for stage in STAGES:
        folder = _folder(stage, settings, run_url) if before_done else StageFolder(run_url, stage.name)
        progress = folder.progress()
        if progress.state in ("not started", "unfinished") and not progress.units_done:
            for step in _BEFOREHAND.get(stage.name, ()):
                first = StageFolder(run_url, step, folder.fingerprint).progress()
                if first.state == "unfinished":
                    progress = replace(first, step=step)
                    break
        if not before_done:
            state = "waiting" if progress.state == "not started" else "out of date"
            progress = Progress(state)
        before_done = before_done and progress.state == "done"
        yield stage.name, progress


def _up_to(last: str) -> Sequence[Stage]:
    names = [stage.name for stage in STAGES]
    return STAGES[: names.index(last) + 1]


def _folder(stage: Stage, settings: Settings, run_url: str) -> StageFolder:
    """The stage's folder under the fingerprint it must have now; the stages before it have to be done."""
    index = STAGES.index(stage)
    before = StageFolder(run_url, STAGES[index - 1].name).manifest() if index else None
    module = stage.module
    fingerprint = runfolder.fingerprint(stage.name, module.content(settings), before, module.inputs(settings))
    return StageFolder(run_url, stage.name, fingerprint)
