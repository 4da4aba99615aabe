"`nbdev_test` under the name its users type: nbdev 3 spells it `nbdev-test`, and its options with hyphens."
import sys


def as_nbdev3(
    args,  # the words after `nbdev_test`, as they are typed
):
    "`args` as nbdev 3 reads them: option names hyphenated, `--path X` (or `--path=X`) as the positional X"
    words = []
    for arg in args:
        name, sep, value = arg.partition('=')
        if name == '--path': words += [value] if sep else []
        elif name.startswith('--'): words.append(name.replace('_', '-') + sep + value)
        else: words.append(arg)
    return words


def nbdev_test():
    "Run the notebooks as tests; the exit code says whether all passed"
    from hw4.study.extras import need
    try: need('dev', 'nbdev')
    except ValueError as e: sys.exit(f'nbdev_test: {e}')
    from fastcore.script import parse_cli
    from nbdev.test import nbdev_test as command
    sys.argv[1:] = as_nbdev3(sys.argv[1:])
    positional, named, _ = parse_cli(command.__wrapped__, pos=['path'])
    return command.__wrapped__(*positional, **named)


def write_readme(
    index='nbs/index.ipynb', # the notebook that is the README's source
    readme='README.md', # what is written
):
    "README.md from the index notebook, through nbdev's filters and nbconvert (nbdev's own command needs Quarto)"
    import re
    from pathlib import Path
    import nbformat
    from fastcore.nbio import read_nb
    from nbconvert import MarkdownExporter
    from nbdev.processors import FilterDefaults
    nb = read_nb(index)
    title = ''.join(nb.cells[0].source)
    processor = FilterDefaults().nb_proc(nb)
    processor.process()
    text, _ = MarkdownExporter().from_notebook_node(nbformat.from_dict(processor.nb))
    body = re.sub(r'^---.*?---|<!-- WARNING.*?-->', '', text.strip(), flags=re.S).strip()  # the site's front matter
    note = '<!-- made from nbs/index.ipynb by `make prepare`: edit that -->'
    Path(readme).write_text(f'{note}\n\n{title}\n\n{body}\n', encoding='utf-8')


if __name__ == '__main__' and sys.argv[1:] == ['readme']: write_readme()
