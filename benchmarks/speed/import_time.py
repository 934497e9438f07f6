"""What `import fastnoisy.all` adds to `from fastai.vision.all import *`: seconds, median of 5 pairs of fresh processes.

python benchmarks/speed/import_time.py
"""
import subprocess, sys
from statistics import median

CODE = """
import time, fastai.vision.all
t = time.perf_counter()
import fastnoisy.all
print(time.perf_counter()-t)
"""

def seconds():
    command = [sys.executable, '-W', 'ignore', '-c', CODE]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

if __name__ == '__main__':
    times = [seconds() for _ in range(6)][1:]
    print(f'import fastnoisy.all after fastai.vision.all: {median(times):.3f} s '
          f'(median of 5, {min(times):.3f} to {max(times):.3f})')
