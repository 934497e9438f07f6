from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(key): return [o.strip() for o in cfg[key].splitlines() if o.strip() and not o.strip().startswith('#')]

setup(
    name=cfg['name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], license=cfg['license'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['fastnoisy*']), package_data={'fastnoisy.analysis.report': ['review.*']},
    python_requires='>=' + cfg['min_python'],
    install_requires=lines('requirements'), extras_require={o: lines(f'{o}_requirements') for o in ('dev', 'faiss', 'distributed')},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['fastnoisy = fastnoisy._modidx:d']},
    zip_safe=False,
)
