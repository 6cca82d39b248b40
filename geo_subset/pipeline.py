"""Which stages there are, in which order, and what of them is done already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from geo_subset import events, lease, made_from, ownership, runfolder, stopping, superseding
from geo_subset.errors import StageError
from geo_subset.manifests import Manifest, Progress
from geo_subset.runfolder import StageFolder
from geo_subset.settings import Settings, dumps


@dataclass(frozen=True)
class Stage:
    """A stage's module offers content, inputs, run and describe; check, where settings need more than their types;
    shaping, where content is more than a section of the settings; and needs_cluster, where that depends on them.

    Its `steps` come before it, in folders of their own; their units are what there is to see until then.
    """

    name: str
    module_name: str
    on_cluster: bool
    steps: tuple[str, ...] = ()

    @property
    def module(self) -> ModuleType:
        return import_module(self.module_name)  # late: some stages import heavy packages

    def needs_cluster(self, settings: Settings) -> bool:
        return self.on_cluster or (hasattr(self.module, "needs_cluster") and self.module.needs_cluster(settings))

    def shaping(self, settings: Settings) -> dict[str, Any]:
        """The settings that shape its content, nested as in a run file."""
        if hasattr(self.module, "shaping"):
            return self.module.shaping(settings)  # type: ignore[no-any-return]
        return {self.name: self.module.content(settings)}


STAGES = (
    Stage("places", "geo_subset.places.stage", on_cluster=False, steps=("gather",)),
    Stage("retrieve", "geo_subset.retrieve.stage", on_cluster=True, steps=("texts", "scan", "best", "rows")),
    Stage("merge", "geo_subset.merge", on_cluster=True, steps=("shuffle",)),
    Stage("download", "geo_subset.download.stage", on_cluster=True),
    Stage("report", "geo_subset.report.stage", on_cluster=False),
)


@dataclass(frozen=True)
class Result:
    """What `run` did about a stage."""

    stage: str
    manifest: Manifest
    skipped: bool


def check(settings: Settings, last: str = "report") -> None:
    """Everything about the settings of the stages up to `last` that types cannot say. Raises SettingsError."""
    for stage in _up_to(last):
        if hasattr(stage.module, "check"):
            stage.module.check(settings)


def run(settings: Settings, last: str = "report", address: str | None = None, as_made: bool = False) -> list[Result]:
    """Runs the stages up to `last`, skipping what is done. Starts or joins a Ray cluster only if a stage needs it.

    `as_made`: the stages before `last` are taken as the run folder holds them; their inputs may be gone.
    Raises SettingsError before anything starts; StageError when a stage cannot finish, with what is done kept, or when
    another driver works on the run folder.
    """
    if not as_made:
        check(settings, last)
    results = []
    with ExitStack() as stack:
        stack.enter_context(lease.held(ownership.check(settings.run)))
        run_url = ownership.claim(settings.run, dumps(settings))
        connected = announced = False
        for stage in _up_to(last):
            stopping.check()
            stack.enter_context(events.about(run=run_url, stage=stage.name))
            if as_made and stage.name != last:
                manifest: Manifest | None = _as_made(stage, run_url)
                folder = StageFolder(run_url, stage.name)
            else:
                folder = _folder(stage, settings, run_url)
                manifest = folder.finished()
            if manifest is None:
                announced = announced or _announce(stage, folder)
                manifest = _found_again(stage, folder)
            skipped = manifest is not None
            if manifest is None:
                if stage.needs_cluster(settings) and not connected:
                    from geo_subset import cluster, nodes

                    stack.enter_context(cluster.connect(settings.cluster, address))
                    nodes.check()
                    connected = True
                events.event("stage started")
                manifest = stage.module.run(settings, folder)
            else:
                folder.tidy(manifest)
            did = "done already:" if skipped else f"{manifest.seconds:.1f} s:"
            events.event(
                "stage done", f"{stage.name:<9} {did} {stage.module.describe(manifest)}",
                skipped=skipped, seconds=manifest.seconds, counters=manifest.counters, **manifest.usage,
            )  # fmt: skip
            results.append(Result(stage.name, manifest, skipped))
    return results


def _as_made(stage: Stage, run_url: str) -> Manifest:
    """What the run folder holds of a stage. Raises StageError if that is not all of it."""
    folder = StageFolder(run_url, stage.name)
    manifest = folder.manifest()
    whole = None if manifest is None else replace(folder, fingerprint=manifest.fingerprint).finished()
    if whole is None:
        raise StageError(f"{folder.url} is not finished. Run the run file first: geo-subset run RUN.toml")
    return whole


def _announce(stage: Stage, folder: StageFolder) -> bool:
    """Logs what this stage's new settings supersede, and why; False if it is nothing."""
    there = superseding.present(folder.run_url, stage.name)
    if there is None or there[0] == folder.fingerprint:
        return False
    index = STAGES.index(stage)
    later = [s.name for s in STAGES[index + 1 :] if superseding.present(folder.run_url, s.name) is not None]
    before = STAGES[index - 1].name if index else ""
    why = "; ".join(made_from.differences(there[1], folder.made_from, before))
    events.event(
        "superseded",
        f"results of {', '.join([stage.name, *later])} are superseded ({why}). They are kept: "
        f"geo-subset clean {folder.run_url} frees them",
        superseded=[stage.name, *later],
    )
    return True


def _found_again(stage: Stage, folder: StageFolder) -> Manifest | None:
    """Sets aside what other settings made. Returns the manifest if these settings have finished the stage before."""
    for step in (*stage.steps, stage.name):
        superseding.settle(folder.run_url, step, folder.fingerprint)
    return folder.finished()


def status(settings: Settings) -> Iterator[tuple[str, Progress]]:
    """How far each stage is. A stage after an unfinished one is 'out of date' if anything is there, else 'waiting'.

    No input is asked for: a result is 'out of date' if the settings noted with it differ, or input files that are at
    hand do.
    """
    run_url = ownership.open_run(settings.run)
    before: Manifest | None = None
    before_done = True
    for stage in STAGES:
        folder = StageFolder(run_url, stage.name)
        progress = folder.progress()
        there = superseding.present(run_url, stage.name) if before_done and progress.state != "not started" else None
        if there is not None and not _is_current(stage, settings, there[1], before):
            progress = replace(progress, state="out of date")
        elif progress.state in ("not started", "unfinished") and not progress.units_done:
            progress = next(_steps(stage, run_url, progress), progress)
        if not before_done:
            progress = Progress("waiting" if progress.state == "not started" else "out of date")
        before_done = before_done and progress.state == "done"
        before = folder.manifest()
        yield stage.name, progress


def _steps(stage: Stage, run_url: str, progress: Progress) -> Iterator[Progress]:
    """The steps before a stage that are under way."""
    for step in stage.steps:
        first = StageFolder(run_url, step, progress.fingerprint or "").progress()
        if first.state == "unfinished":
            yield replace(first, step=step)


def _is_current(stage: Stage, settings: Settings, noted: dict[str, Any], before: Manifest | None) -> bool:
    """Whether results were made from these settings, as far as can be told from what is at hand."""
    if not noted:
        return True
    now = made_from.made_from(stage.shaping(settings), before, {})
    if (noted.get("settings"), noted.get("before")) != (now["settings"], now["before"]):
        return False
    paths = list(stage.module.inputs(settings))
    if not all(Path(path).is_file() for path in paths):
        return True
    return sorted(map(runfolder.file_digest, paths)) == made_from.digests(noted)


def _up_to(last: str) -> Sequence[Stage]:
    names = [stage.name for stage in STAGES]
    return STAGES[: names.index(last) + 1]


def _folder(stage: Stage, settings: Settings, run_url: str) -> StageFolder:
    """The stage's folder under the fingerprint it must have now; the stages before it have to be done."""
    index = STAGES.index(stage)
    before = StageFolder(run_url, STAGES[index - 1].name).manifest() if index else None
    module = stage.module
    digests = {path: runfolder.file_digest(path) for path in module.inputs(settings)}
    fingerprint = runfolder.fingerprint_of(stage.name, module.content(settings), before, digests.values())
    noted = made_from.made_from(stage.shaping(settings), before, digests)
    return StageFolder(run_url, stage.name, fingerprint, noted)
