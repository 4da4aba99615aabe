"Measure rows, each in a process of its own, and write each result as soon as it is there."
import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from .alone import alone
from .load import Load, make_load
from .machine import commit
from .results import Result, open_results, read, table, write
from .rows import EXTRA, ROWS, choose

RESULTS = Path(__file__).parent/'results'


def arguments() -> argparse.Namespace:
    "What is asked for on the command line"
    parser = argparse.ArgumentParser('python -m benchmarks', description='hw4 measured against the usual way. '
                                     f'Rows: {", ".join(ROWS)}; only by name: {", ".join(EXTRA)}')
    parser.add_argument('--rows', nargs='+', default=[], metavar='ROW', help='names of rows, or beginnings of names (default: all)')
    parser.add_argument('--smoke', action='store_true', help='every row in seconds on tiny twins, to see that it runs; written to a temporary folder')
    parser.add_argument('--resume', action='store_true', help="go on with this machine's newest results: what is there is not measured again")
    parser.add_argument('--out', type=Path, help=f'folder of the results (default: {RESULTS})')
    return parser.parse_args()


def measure_row(
    name: str,
    row: Callable,  # load -> results
    load: Load,
) -> list[Result]:
    "Measure a row; one that crashes is a result too"
    start = time.perf_counter()
    try: found = alone(row, load)
    except Exception as e:
        traceback.print_exc()
        found = [Result(name, '', error=f'{type(e).__name__}: {str(e)[:300]}')]
    where = dict(seconds=round(time.perf_counter() - start, 1), date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
                 command=f'python -m benchmarks --rows {name}' + ' --smoke' * load.smoke, commit=commit(), row=name)
    return [replace(o, where=where) for o in found]


def main() -> int:  # exit status: 1 if a row crashed
    "Measure what is asked for"
    asked = arguments()
    rows = choose(asked.rows)
    out = asked.out or (Path(tempfile.mkdtemp(prefix='hw4-smoke-')) if asked.smoke else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    file = open_results(out, date=datetime.now(timezone.utc).date().isoformat(), resume=asked.resume)
    known = read(file)
    done = {(o.where or {}).get('row') for o in known.values() if not o.error}
    with make_load(asked.smoke) as load:
        for name, row in rows.items():
            if asked.resume and name in done: continue
            print(f'{datetime.now():%H:%M:%S} {name} ...', flush=True)
            found = measure_row(name, row, load)
            known = {k: o for k, o in known.items() if (o.where or {}).get('row') != name} | {o.name: o for o in found}
            write(file, known, smoke=asked.smoke)
            for o in found: print(f'   {" | ".join(v for v in o.said().values() if v)}', flush=True)
    print(f'\n{table(list(known.values()), columns=("row", "to reach", "measured", "reached", "sides", "quality"))}\n\nwritten to {file} and .md')
    return int(any(o.error for o in known.values()))


if __name__ == '__main__': sys.exit(main())
