"Packaging: every fact is read from settings.ini."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']


def lines(key): return [o.strip() for o in cfg.get(key, '').splitlines() if o.strip()]


extras = {key.removesuffix('_requirements'): lines(key) for key in cfg if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license=cfg['license'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=['hw4', 'hw4.*']),
    package_data={'hw4.data': ['camvid_lists.csv']},
    install_requires=lines('requirements'),
    extras_require=extras,
    entry_points=dict(console_scripts=lines('console_scripts'), nbdev=['hw4=hw4._modidx:d']),
)
