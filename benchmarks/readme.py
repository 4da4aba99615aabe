"Put the newest results into the README's source, so that no figure there is typed by hand: `python -m benchmarks.readme`."
import sys
from pathlib import Path

import nbformat

from .machine import machine, short_name
from .results import Result, read, table

RESULTS, INDEX = Path(__file__).parent/'results', Path(__file__).parents[1]/'nbs'/'index.ipynb'
START, END = '<!-- figures of `make bench` -->', '<!-- end of figures -->'


def figures(results: list[Result]) -> str:  # Markdown
    "The rows that have a target, as a table"
    return table([o for o in results if o.target], columns=('what', 'to reach', 'measured', 'reached', 'quality'))


def newest() -> Path:  # JSON
    "This machine's results of the latest date"
    return max(RESULTS.glob(f'????-??-??-{short_name(machine())}.json'))


def with_figures(
    text: str,  # has START and END, each on a line of its own
    rows: str,  # Markdown
) -> str:  # the same with `rows` between them
    "A text with other figures"
    before, rest = text.split(START)
    return f'{before}{START}\n\n{rows}\n\n{END}{rest.split(END)[1]}'


def main() -> int:  # exit status
    "Write the figures into the notebook that the README is made from"
    nb = nbformat.read(INDEX, 4)
    for cell in nb.cells:
        if START in cell.source: cell.source = with_figures(cell.source, figures(list(read(newest()).values())))
    nbformat.write(nb, INDEX)
    return 0


if __name__ == '__main__': sys.exit(main())
