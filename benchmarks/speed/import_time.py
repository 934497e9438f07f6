"""What `import fastnoisy.all` adds to `from fastai.vision.all import *`: seconds, median of 5 pairs of fresh processes.

python benchmarks/speed/import_time.py
"""
import subprocess, sys
from statistics import median

CODE = 'import time; import fastai.vision.all; t = time.perf_counter(); import fastnoisy.all; print(time.perf_counter()-t)'

if __name__ == '__main__':
    times = [float(subprocess.run([sys.executable, '-W', 'ignore', '-c', CODE], capture_output=True, text=True, check=True).stdout) for _ in range(6)][1:]
    print(f'import fastnoisy.all after fastai.vision.all: {median(times):.3f} s (median of 5, {min(times):.3f} to {max(times):.3f})')
