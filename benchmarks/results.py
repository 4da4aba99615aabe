"What was measured, on disk as soon as it is known: JSON for programs, a table for readers."
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from .machine import machine, short_name, versions
from .measure import meets, ratio, spread


@dataclass
class Result:
    "One line of the table"
    name: str  # of the row
    what: str  # was done, in words
    target: str | None = None  # such as '>= 10'; None: shown and not judged
    figures: dict[str, list[float]] | None = None  # side -> a figure for each turn; None: nothing was measured
    above: str = ''  # the side that is divided
    below: str = ''  # by this one
    unit: str = 's'  # of the figures
    quality: str = ''  # what both sides reached, or how equal they are
    note: str = ''  # what a reader must know
    error: str = ''  # why there is nothing
    where: dict | None = None  # seconds, date, command and commit of the measurement

    @property
    def ratio(self) -> float | None:  # None: nothing was measured
        "Of the medians of the two sides"
        return ratio(self.figures[self.above], self.figures[self.below]) if self.figures else None

    @property
    def reached(self) -> bool | None:  # None: there is nothing to judge
        "Whether the target is reached"
        return meets(self.ratio, self.target) if self.target and self.figures else None

    def said(self) -> dict[str, str]:  # column -> words
        "The line, in words"
        found = 'CRASHED' if self.error else {None: '-', True: 'yes', False: 'NO'}[self.reached]
        sides = [f'{label} {number(median(o))}' + f' ({number(min(o))} to {number(max(o))})' * (len(o) > 1)
                 for label, o in (self.figures or {}).items()]
        low, high = spread(self.figures[self.above], self.figures[self.below]) if self.figures else (0, 0)
        measured = f'{number(self.ratio)} ({number(low)} to {number(high)})' if self.figures else ''
        return {'row': self.name, 'what': self.what, 'to reach': self.target or '-', 'measured': measured, 'reached': found,
                'sides': f'{"; ".join(sides)} {self.unit}' if sides else '', 'quality': self.quality, 'note': self.error or self.note}


def number(value: float) -> str:  # three digits that count, and never an exponent
    "A figure as a reader wants it"
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:#.3g}'


def table(
    results: list[Result],
    *,
    columns: tuple[str, ...] = ('row', 'what', 'to reach', 'measured', 'reached', 'sides', 'quality', 'note'),
) -> str:  # Markdown
    "Results as a table"
    cells = [[o.said()[c].replace('|', '/').replace('\n', ' ') for c in columns] for o in results]
    return '\n'.join(['| ' + ' | '.join(o) + ' |' for o in [columns, ['---'] * len(columns), *cells]])


def open_results(
    folder: Path,  # of all results
    *,
    date: str,  # of today, as in '2026-01-31'
    resume: bool,  # go on with this machine's newest file, whatever its date
) -> Path:  # the JSON file to add to; it need not exist
    "The file of a machine's results: one a day"
    name = short_name(machine())
    old = sorted(folder.glob(f'????-??-??-{name}.json'))
    return old[-1] if resume and old else folder/f'{date}-{name}.json'


def read(
    file: Path,  # JSON
) -> dict[str, Result]:  # name -> result; empty without a file
    "What is known already"
    if not file.is_file(): return {}
    own = Result.__dataclass_fields__
    return {o['name']: Result(**{k: o[k] for k in own}) for o in json.loads(file.read_text())['results']}


def write(
    file: Path,  # JSON; the table is written beside it
    results: dict[str, Result],  # all that is known
    *,
    smoke: bool,  # say that the figures mean nothing
) -> None:
    "Write everything anew, in one stroke each, so that an interrupted benchmark leaves whole files"
    host, packages = machine(), versions()
    known = dict(machine=host, versions=packages, smoke=smoke,
                 results=[asdict(o) | dict(ratio=o.ratio, reached=o.reached) for o in results.values()])
    lines = [f'# Benchmark, {file.stem}', 'SMOKE TEST: tiny twins, the figures mean nothing' * smoke,
             f'{host["cpu"]}, {host["cores"]} cores, {host["ram_gib"]} GiB' + f', {host["gpu"]}' * bool(host['gpu']),
             ', '.join(f'{k} {v}' for k, v in packages.items() if v), '\n'.join(sorted({measured(o) for o in results.values()})),
             f'{minutes(results):.0f} minutes in all', table(list(results.values()))]
    for path, text in ((file, json.dumps(known, indent=1)), (file.with_suffix('.md'), '\n\n'.join(o for o in lines if o) + '\n')):
        path.with_suffix(path.suffix + '.new').write_text(text)
        path.with_suffix(path.suffix + '.new').replace(path)


def minutes(results: dict[str, Result]) -> float:
    "How long the measuring took; several results may come from one row"
    return sum({o.where['row']: o.where['seconds'] for o in results.values() if o.where}.values()) / 60


def measured(result: Result) -> str:  # a list item
    "When and by what a result was measured"
    where = result.where or {}
    return f'* {where.get("date", "")[:10]}: `{where.get("command", "")}`, commit {(where.get("commit") or "unknown")[:12]}'
