import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup
from setuptools.command.sdist import sdist

here = Path(__file__).parent
cfg = ConfigParser(delimiters=['='])
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(key): return [o.strip() for o in cfg[key].splitlines() if o.strip() and not o.strip().startswith('#')]

def version():
    "From fastnoisy/__init__.py, the one place where it is stated, without an import of the package"
    text = (here/'fastnoisy/__init__.py').read_text(encoding='utf-8')
    return re.search(r'^__version__ = "(.+)"$', text, flags=re.M)[1]

class SourceArchive(sdist):
    "With settings.ini, without which this file cannot run"
    def make_distribution(self):
        self.filelist.append('settings.ini')
        super().make_distribution()

CLASSIFIERS = '''
Development Status :: 4 - Beta
Intended Audience :: Developers
Intended Audience :: Science/Research
Programming Language :: Python :: 3
Programming Language :: Python :: 3.10
Programming Language :: Python :: 3.11
Programming Language :: Python :: 3.12
Programming Language :: Python :: 3.13
Topic :: Scientific/Engineering :: Artificial Intelligence
Typing :: Typed
'''.strip().split('\n')

setup(
    name=cfg['name'], version=version(), description=cfg['description'], keywords=cfg['keywords'].split(),
    author=cfg['author'], license=cfg['license'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=['fastnoisy*']),
    package_data={'fastnoisy': ['py.typed'], 'fastnoisy.analysis.report': ['review.*']},
    classifiers=CLASSIFIERS, cmdclass={'sdist': SourceArchive},
    python_requires='>=' + cfg['min_python'],
    install_requires=lines('requirements'), extras_require={o: lines(f'{o}_requirements') for o in ('dev', 'docs', 'faiss', 'distributed', 'dask', 'ray', 'slurm')},
    entry_points={'console_scripts': lines('console_scripts'), 'nbdev': ['fastnoisy = fastnoisy._modidx:d']},
    zip_safe=False,
)
