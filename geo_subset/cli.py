"""The command line. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from geo_subset import __version__, stopping
from geo_subset.credentials import redact_text
from geo_subset.errors import GeoSubsetError, StageError, TooFewImagesError
from geo_subset.printable import printable

if TYPE_CHECKING:
    from geo_subset.settings import Settings

#: Packages whose errors tell of storage or network.
_OUTSIDE = {"aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "s3fs"}
#: Problems that `verify` lists; the others are counted.
_PROBLEMS_SHOWN = 50
INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it; 0, 1 and 2 are for done, failed and bad usage."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a command; returns the exit status. Expected errors are shown as one line."""
    stopping.on_signals()
    sys.excepthook = _crashed
    words = sys.argv[1:] if arguments is None else arguments
    try:
        commands.main(words, prog_name="geo-subset", standalone_mode=False)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        _say(shown.getvalue().rstrip(), err=True)
        return error.exit_code
    except GeoSubsetError as error:
        _ended("failed", f"geo-subset: {' '.join(str(error).split())}")
        return error.exit_status
    except (KeyboardInterrupt, click.Abort, SystemExit) as error:
        # While it starts, Ray takes SIGTERM for itself, and ends with its number.
        if isinstance(error, SystemExit) and error.code != signal.SIGTERM:
            raise
        from geo_subset.ownership import in_ray_job

        again = "submit the job again" if in_ray_job() else f"geo-subset {shlex.join(map(redact_text, words))}"
        _ended("stopped", f"\nstopped; what is done is kept. To go on: {again}")
        return INTERRUPTED
    except Exception as error:
        # What the world outside does (a bucket without credentials, a folder without permission) is no bug of ours.
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] not in _OUTSIDE:
            raise
        _ended("failed", f"geo-subset: {type(error).__name__}: {' '.join(str(error).split())}")
        return 1
    return 0


def _say(text: str, err: bool = False) -> None:
    """Prints a line, without the credentials of URLs and without what a terminal would obey."""
    click.echo(printable(redact_text(text)), err=err)


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's last words about a bug of ours, likewise."""
    _say("".join(traceback.format_exception(kind, error, trace)), err=True)


def _ended(how: str, message: str) -> None:
    """Tells why a command ends, in the form of its log."""
    from geo_subset import events

    if events.structured():
        events.set_up_logging()  # it may have ended before its log began
        events.event(how, message, level=logging.ERROR)
    else:
        with contextlib.suppress(OSError):  # the terminal may have gone
            _say(message, err=True)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--address", metavar="ADDRESS", help="A Ray cluster; default: one started here.")(function)
    return click.option(
        "overrides", "--set", multiple=True, metavar="SECTION.KEY=VALUE", help="Overrides a setting; repeatable."
    )(function)


_run_file = click.argument("run_file", metavar="RUN.toml", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="geo-subset")
def commands() -> None:
    """From a list of places to a training-ready geo-image dataset.

    places -> retrieve -> merge -> download -> report: one run file in, one run folder out. A stage that is done is
    skipped; one that was cut off goes on where it stopped.
    """


def _stage_command(name: str, last: str, help_text: str) -> None:
    @commands.command(name, help=help_text)
    @_run_file
    @_options
    def command(run_file: Path, overrides: tuple[str, ...], address: str | None) -> None:
        from geo_subset import events, pipeline, settings

        events.set_up_logging()
        loaded = settings.load(run_file, overrides, last)
        results = pipeline.run(loaded, last, address)
        if all(result.skipped for result in results):
            _say("nothing to do: every stage is done already")
        _where(loaded.run, last)


_stage_command("run", "report", "All stages.")


@commands.command()
@_run_file
@_options
@click.option(
    "--preview", type=click.IntRange(min=1), metavar="N", help="Then show N places and what there is of them."
)
def places(run_file: Path, overrides: tuple[str, ...], address: str | None, preview: int | None) -> None:
    """The places table and the search texts."""
    from geo_subset import events, ownership, pipeline, runfolder, settings

    events.set_up_logging()
    loaded = settings.load(run_file, overrides, "places")
    result = pipeline.run(loaded, "places", address)[-1]
    if preview is not None:
        from geo_subset.places import preview as look
        from geo_subset.places.stage import FILE

        folder = runfolder.StageFolder(ownership.open_run(loaded.run), "places", result.manifest.fingerprint)
        with folder.local([FILE]) as (file,):
            for line in look.lines(file, result.manifest.counters, preview):
                _say(line)
        return
    if result.skipped:
        _say("nothing to do: every stage is done already")
    _where(loaded.run, "places")


@commands.command()
@_run_file
@_options
@click.option("--like", metavar="RUN", help="Take the rates from this run folder, a trial run's for example.")
@click.option("--rate", "by_hand", multiple=True, metavar="NAME=NUMBER", help="A rate of your own (repeatable).")
def plan(
    run_file: Path, overrides: tuple[str, ...], address: str | None, like: str | None, by_hand: tuple[str, ...]
) -> None:
    """What a run will cost: places, queries, time, storage, with the arithmetic.

    The places are made for it, as they are for a run.
    """
    from geo_subset import costs, events, ownership, pipeline, runfolder, settings
    from geo_subset.places.stage import FILE

    events.set_up_logging()
    loaded = settings.load(run_file, overrides)
    rates = costs.known(loaded, like, by_hand)
    fingerprint = pipeline.run(loaded, "places", address)[-1].manifest.fingerprint
    counted = costs.counted(runfolder.StageFolder(ownership.open_run(loaded.run), "places", fingerprint), FILE)
    amounts = list(costs.amounts(*counted, loaded, rates))
    for line in costs.lines(amounts, rates):
        _say(line)


_stage_command("retrieve", "retrieve", "Images for every place, and what it needs before it.")
_stage_command("merge", "merge", "One row per URL, and what it needs before it.")


def _is_pattern(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    try:
        re.compile(text or "")
    except re.error as error:
        raise click.BadParameter(f"{text!r} is no regular expression: {error}") from error
    return text


@commands.command()
@_run_file
@_options
@click.option("--retry-failed", is_flag=True, help="Then try again what failed for a reason that may pass.")
@click.option(
    "--reason", metavar="REGEX", callback=_is_pattern, help="With --retry-failed: what failed for such a reason."
)
def download(
    run_file: Path, overrides: tuple[str, ...], address: str | None, retry_failed: bool, reason: str | None
) -> None:
    """Webdataset shards, and what they need before them."""
    from geo_subset import events, pipeline, settings

    if reason is not None and not retry_failed:
        raise click.UsageError("--reason goes with --retry-failed")
    events.set_up_logging()
    loaded = settings.load(run_file, overrides, "download")
    too_few: TooFewImagesError | None = None
    try:
        results = pipeline.run(loaded, "download", address)
        fingerprint, succeeded = results[-1].manifest.fingerprint, results[-1].manifest.counters["succeeded"]
    except TooFewImagesError as error:
        if not retry_failed:
            raise
        too_few, fingerprint, succeeded = error, error.fingerprint, error.succeeded
    if retry_failed:
        if not _retry_failed(loaded, fingerprint, succeeded, reason, address) and too_few is not None:
            raise too_few
    elif all(result.skipped for result in results):
        _say("nothing to do: every stage is done already")
    _where(loaded.run, "download")


def _retry_failed(loaded: Settings, fingerprint: str, succeeded: int, reason: str | None, address: str | None) -> bool:
    """Returns whether there was anything to try again. `succeeded`: images that there were before."""
    from geo_subset import cluster, events, lease, nodes, ownership, runfolder
    from geo_subset.download import stage

    folder = runfolder.StageFolder(ownership.open_run(loaded.run), "download", fingerprint)
    about = events.about(run=folder.run_url, stage="download")
    with lease.held(folder.run_url), about, cluster.connect(loaded.cluster, address):
        nodes.check()
        after = stage.retry_failed(loaded, folder, reason)
    if after is None:
        _say("nothing to try again: no image failed for such a reason")
        return False
    more = after.counters["succeeded"] - succeeded
    _say(f"{more:,} more images; now {stage.describe(after)}")
    return True


def _run_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("run", metavar="RUN")(function)


@commands.command()
@_run_argument
@_options
def report(run: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Numbers, plots and contact sheets, and what they need before them.

    RUN: a run file; or a run folder, whose other stages are taken as they are.
    """
    from geo_subset import events, pipeline, run_argument, settings

    events.set_up_logging()
    if of_folder := run_argument.is_folder(run):
        if others := [each for each in overrides if not each.startswith(("report.", "cluster."))]:
            raise click.UsageError(f"--set {others[0]}: of a run folder only the report is made; name the run file")
        loaded = run_argument.look(run, overrides).settings
    else:
        loaded = settings.load(run, overrides)
    results = pipeline.run(loaded, "report", address, as_made=of_folder)
    if all(result.skipped for result in results):
        _say("nothing to do: every stage is done already")
    _where(loaded.run, "report")


@commands.command()
@_run_argument
@_options
@click.option("as_json", "--json", is_flag=True, help="Print JSON.")
def status(run: str, overrides: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """What is done, what is left, counters and rates. RUN: a run file or a run folder."""
    del address  # taken everywhere; reading a folder needs no cluster
    from geo_subset import lease, ownership, pipeline, run_argument, superseding
    from geo_subset import status as shown

    looked = run_argument.look(run, overrides)
    run_url = ownership.open_run(looked.settings.run)
    held_by = lease.holder(run_url)
    dead = held_by is not None and lease.lives(held_by) is False
    stages = shown.tree(dict(pipeline.status(looked.settings)), None if dead else held_by, superseding.apart(run_url))
    if as_json:
        _say(json.dumps(stages, indent=1))
        return
    for line in shown.lines(stages):
        _say(line)
    if looked.differences:
        _say(f"the run was made with other settings than {run} has now: {'; '.join(looked.differences)}")


@commands.command()
@_run_argument
@_options
def verify(run: str, overrides: tuple[str, ...], address: str | None) -> None:
    """Re-reads every shard and compares it with manifest and samples; changes nothing.

    RUN: a run file or a run folder.
    """
    from geo_subset import cluster, events, ownership, run_argument
    from geo_subset.download import verify as verification

    events.set_up_logging()
    loaded = run_argument.look(run, overrides).settings
    plan = verification.prepare(loaded, ownership.open_run(loaded.run))
    about = events.about(run=plan.folder.run_url, stage="verify")
    with about, cluster.connect(loaded.cluster, address):
        report = verification.run(plan, loaded)
    shown = report.problems[:_PROBLEMS_SHOWN]
    for line in shown:
        _say(line)
    if report.problem_count > len(shown):
        _say(f"... and {report.problem_count - len(shown):,} more")
    _say(
        f"{report.shards:,} shards, {report.samples:,} samples, {report.images:,} images, "
        f"{report.bytes:,} bytes re-read in {report.seconds:.1f} s: "
        + (f"{report.problem_count:,} problems" if report.problem_count else "all as recorded")
    )
    if report.problem_count:
        raise StageError(f"{plan.folder.url} is not what it should be: {report.problem_count:,} problems, listed above")


@commands.command()
@_run_argument
@_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(run: str, overrides: tuple[str, ...], address: str | None, yes: bool) -> None:
    """Frees results that newer settings superseded. Nothing else ever removes a finished result.

    RUN: a run file or a run folder.
    """
    del address  # taken everywhere; this needs no cluster
    from geo_subset import events, lease, ownership, run_argument, superseding
    from geo_subset import status as shown

    events.set_up_logging()
    run_url = ownership.check_is_run(run_argument.look(run, overrides).settings.run)
    with lease.held(run_url):
        superseding.complete_moves(run_url)
        everything = list(superseding.apart(run_url))
        found = [each for each in everything if isinstance(each, superseding.Superseded)]
        for each in everything:
            if isinstance(each, superseding.Unreadable):
                _say(f"{each.stage:<9} {each.problem}")
        if not found:
            _say("nothing to free: no result is superseded")
            return
        for each in found:
            _say(shown.superseded_line(each))
        freed = shown.amount(found)
        if not yes and not _confirmed(f"Remove {freed}?"):
            _say("nothing was removed")
            return
        for changed in map(superseding.remove, found):
            for url in changed:
                _say(f"{url} is not as it was recorded, and stays")
        _say(f"freed {freed}")


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question)
    except click.Abort:
        raise click.UsageError(
            "nobody answered, so nothing was removed; to remove without being asked: --yes"
        ) from None


@commands.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--places", type=click.IntRange(min=1), default=200, show_default=True, help="US cities to look for.")
@click.option(
    "--images", type=click.IntRange(min=1), help="Images in the world.  [default: 5000, or all of the corpus]"
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the world's server; kept with the folder.")
@click.option("--corpus", type=click.Path(path_type=Path), help="Metadata file (URLs and captions) to build it from.")
@_options
def demo(
    out: Path,
    places: int,
    images: int | None,
    port: int | None,
    corpus: Path | None,
    overrides: tuple[str, ...],
    address: str | None,
) -> None:
    """The whole pipeline on an embedded world, no network."""
    from geo_subset import events, ownership, pipeline, settings, wording
    from geo_subset.demo import launch

    events.set_up_logging()
    launch.claim(out)
    world = launch.build(out, places, images, port, corpus)
    run_file = launch.write_run_file(world, out)
    loaded = settings.load(run_file, overrides)
    with launch.serving(world):
        results = {result.stage: result for result in pipeline.run(loaded, address=address)}
    run_url = ownership.open_run(loaded.run)
    truth = launch.truth_share(world, run_url)
    if all(result.skipped for result in results.values()):
        _say("nothing to do: every stage is done already")
    counters = {name: result.manifest.counters for name, result in results.items()}
    tars = sum(entry.path.endswith(".tar") for entry in results["download"].manifest.files)
    _say(
        f"\n{counters['retrieve']['places']:,} places, {counters['retrieve'].get('rows', 0):,} rows, "
        f"{counters['merge']['samples']:,} distinct images, {counters['download'].get('succeeded', 0):,} downloaded "
        f"into {wording.counted(tars, 'shard')}"
    )
    if truth is not None:
        _say(truth.sentence())
    _say(f"shards:   {run_url}/shards")
    _say(f"report:   {run_url}/report/index.html")
    _say(f"run file: {run_file}")
    _say(
        f"Next, for your own places: write them one a line into places.txt, fill in {launch.write_next_steps(out)}\n"
        "(it tells where), and run it: geo-subset run my_places.toml"
    )


def _where(run: str, last: str) -> None:
    from geo_subset import layout, ownership

    url = ownership.open_run(run)
    folder = layout.STAGES[last][0]
    _say(f"{url}/{folder}" + ("/index.html" if last == "report" else ""))


if __name__ == "__main__":
    sys.exit(main())
