"""How is a study computed by the one process of the command line, without a queue, and what does it say meanwhile?"""

from jobs.requests import StudyRequest
from store.settings import Settings
from store.study import open_published
from workers import study as pipeline
from workers.memory import keep_freed_memory
from workers.prepare import prepare
from workers.terminal import bars, facts, out, print_json, say_published, say_what_is_odd, stopping, tell_price


def compute(request: StudyRequest, settings: Settings, *, dry_run: bool, as_json: bool) -> None:
    """Compute a study and say what came out, or what it would cost."""
    keep_freed_memory()
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    added: list[str] = []
    with stopping() as check, bars(quiet=as_json) as show:

        def report(stage: str, done: int, of: int, counted: str) -> None:
            show(stage, done, of, counted)
            check()

        prepared = prepare(request, settings, report)
        say_what_is_odd(prepared)
        known = pipeline.published(prepared)
        if dry_run:
            price = pipeline.price(prepared, report, check)
        elif known is None or (added := pipeline.missing(prepared)):
            manifest = pipeline.run(prepared, report, lambda price: None if as_json else tell_price(vars(price)), check)
    if dry_run:
        print_json(vars(price)) if as_json else tell_price(vars(price))
        return
    study = open_published(prepared.study)
    if as_json:
        print_json(facts(study))
    elif known is not None and not added:
        out.print(f"{study.name} is published already, with these very settings: {study.path}")
    elif known is not None:
        seconds = sum(manifest.run["seconds"][stage] for stage in added)
        out.print(
            f"[bold]{study.name}[/] is published anew, with {', '.join(added)} added in {seconds:,.0f} s: "
            f"{manifest.size / 1e6:,.1f} MB, manifest {manifest.content[:12]}"
        )
    else:
        say_published(study)
