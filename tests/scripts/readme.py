"Makes README.md from nbs/index.ipynb: `python tests/scripts/readme.py` (nbdev-readme would need quarto)."
import json, re
from pathlib import Path

root = Path(__file__).resolve().parents[2]
_link = re.compile(r'\]\((?=[\w/]+\.(ipynb|png))')

def _text(o): return ''.join(o).rstrip()

def _indented(o): return '    ' + _text(o).replace('\n', '\n    ')

def _outputs(cell):
    for o in cell.get('outputs', []):
        data = o.get('data', {})
        if 'text/markdown' in data: yield _text(data['text/markdown'])
        elif 'text/plain' in data and 'image/png' not in data: yield _indented(data['text/plain'])
        elif o.get('output_type') == 'stream': yield _indented(o['text'])

def readme()->str:
    "The notebook's text and code as Markdown; cells with `#| hide` are left out"
    parts = ['<!-- Made from nbs/index.ipynb by tests/scripts/readme.py: edit the notebook. -->']
    for cell in json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']:
        source = _text(cell['source'])
        if cell['cell_type'] == 'markdown': parts.append(_link.sub('](nbs/', source))
        elif '#| hide' not in source: parts += [f'```python\n{source}\n```', *_outputs(cell)]
    return '\n\n'.join(parts) + '\n'

if __name__ == '__main__': (root/'README.md').write_text(readme(), encoding='utf-8')
