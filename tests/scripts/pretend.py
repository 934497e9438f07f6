"""A pretend GPU, for machines without one. `device()` makes it, for the whole process: its memory is the host's and
its operations run on the CPU, but it refuses what CUDA refuses, tensors of two devices in one operation above all.
`Meter` counts what a GPU would have to do: kernels to start, and waits of the host for the device."""
import hashlib, importlib.util, os, subprocess, sys, sysconfig, types
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from shutil import which
import torch
from torch.utils._python_dispatch import TorchDispatchMode

SOURCE,NAME = Path(__file__).with_name('pretend.cpp'),'pretend'

# the device

def compiler():
    "The C++ compiler, or None"
    return which(os.environ.get('CXX', 'g++')) or which('c++')

def missing()->str:
    "What is not here to compile the device with, or None"
    if os.name != 'posix' or compiler() is None: return 'C++ compiler'
    has_headers = Path(sysconfig.get_paths()['include'], 'Python.h').exists()
    return None if has_headers else 'header of Python'

def build()->Path:
    "The compiled device. It is made once for each version of Python, PyTorch and of its source, in half a minute"
    about = f'{torch.__version__} {sys.version} {SOURCE.read_text()}'
    folder = Path(os.environ.get('TORCH_EXTENSIONS_DIR') or Path.home()/'.cache/torch_extensions')
    path = folder/f'fastnoisy_{NAME}_{hashlib.sha256(about.encode()).hexdigest()[:16]}.so'
    if path.exists(): return path
    from torch.utils import cpp_extension # it warns where there is no CUDA
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f'.{os.getpid()}')
    includes = [*cpp_extension.include_paths(), sysconfig.get_paths()['include']]
    abi = int(torch.compiled_with_cxx11_abi())
    options = ['-O1', '-w', '-fPIC', '-shared', '-std=c++20', f'-DTORCH_EXTENSION_NAME=fastnoisy_{NAME}',
               f'-D_GLIBCXX_USE_CXX11_ABI={abi}', *[f'-isystem{o}' for o in includes]]
    libraries = [f'-L{Path(torch.__file__).parent}/lib', '-lc10', '-ltorch_cpu', '-ltorch', '-ltorch_python']
    command = [compiler(), *options, str(SOURCE), *libraries, '-o', str(part)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode: raise RuntimeError(f'The pretend device cannot be compiled:\n{made.stderr[-2000:]}')
    part.rename(path)
    return path

class _Module(types.ModuleType):
    "What `torch.pretend` is, as `torch.cuda` is for CUDA"
    is_initialized = is_available = is_bf16_supported = staticmethod(lambda: True)
    device_count,current_device = staticmethod(lambda: 2),staticmethod(lambda: 0)
    set_device = synchronize = staticmethod(lambda device=None: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])
    def __init__(self, extension):
        super().__init__(f'torch.{NAME}')
        self.extension = extension
    def _generator(self, device): return self.extension.generator(torch.device(device).index or 0)
    def manual_seed(self, seed): self._generator(NAME).manual_seed(seed)
    def manual_seed_all(self, seed):
        for i in range(2): self._generator(f'{NAME}:{i}').manual_seed(seed)
    def get_rng_state(self, device=NAME): return self._generator(device).get_state()
    def set_rng_state(self, state, device=NAME): self._generator(device).set_state(state)
    def max_memory_allocated(self): return self.extension.most_held()
    def reset_peak_memory_stats(self): self.extension.forget_most_held()
    @contextmanager
    def device(self, device): yield

def device()->torch.device:
    "The pretend GPU. From now on this process has it: do not use it beside tests of something else"
    if not hasattr(torch, NAME):
        spec = importlib.util.spec_from_file_location(f'fastnoisy_{NAME}', build())
        extension = importlib.util.module_from_spec(spec)
        torch.utils.rename_privateuse1_backend(NAME)
        spec.loader.exec_module(extension)
        torch._register_device_module(NAME, _Module(extension))
        torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
        torch.__future__.set_swap_module_params_on_conversion(True) # `module.to` has to change their kind
    return torch.device(NAME, 0)

# what it has to do

_WAITS = {'_local_scalar_dense', 'item', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'unique_consecutive',
          'equal', 'is_nonzero', 'bincount', 'argwhere', 'nonzero_numpy', 'repeat_interleave'}
_INDEXING = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index'}
_FREE = set('''view _unsafe_view as_strided detach detach_ alias t transpose permute expand select slice unsqueeze
squeeze squeeze_ unbind split split_with_sizes empty empty_like empty_strided new_empty new_empty_strided _reshape_alias
unfold diagonal lift_fresh lift_fresh_copy set_ resize_ chunk view_as is_pinned _local_scalar_dense movedim reshape
is_same_size narrow'''.split()) # they start no kernel

def _tensors(args):
    for a in args:
        if isinstance(a, (list, tuple)): yield from _tensors(a)
        elif isinstance(a, torch.Tensor): yield a

def _on(t): return isinstance(t, torch.Tensor) and t.device.type == NAME
def _is_own(name): return '/fastnoisy/' in name and 'site-packages' not in name and 'core/learner' not in name
def _is_frame(name): return 'site-packages/fastai' in name or 'amp/grad_scaler' in name

def _line(name, f): return f'{"/".join(Path(name).parts[-2:])}:{f.f_lineno}'

def _asked_by():
    "The innermost line of the package, else of fastai, that asked for an operation"
    f,other = sys._getframe(2),None
    while f is not None:
        name = f.f_code.co_filename
        if _is_own(name): return _line(name, f)
        if other is None and _is_frame(name): other = _line(name, f)
        f = f.f_back
    return other or 'other'

class Meter(TorchDispatchMode):
    "Counts the kernels that are started and the `waits` of the host for the device, and by which lines of the package"
    def __init__(self):
        super().__init__()
        self.clear()

    def clear(self): self.kernels,self.waits,self.lines,self.ops = 0,Counter(),Counter(),Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs,name = kwargs or {},func._schema.name.split('::')[-1]
        on = any(map(_on, _tensors([*args, *kwargs.values()])))
        target = kwargs.get('device')
        is_there = on or target is not None and torch.device(target).type == NAME
        if is_there and name not in _FREE:
            self.kernels += 1
            self.lines[_asked_by()] += 1
            self.ops[name] += 1
        why = self._wait(name, on, args, kwargs)
        if why: self.waits[f'{why}: {_asked_by()}'] += 1
        return func(*args, **kwargs)

    def _wait(self, name, on, args, kwargs):
        "Why the host waits for the device; None where it does not"
        if name in ('copy_', '_copy_from'):
            to,source = _on(args[0]),_on(args[1])
            blocks = not (args[2] if len(args) > 2 else kwargs.get('non_blocking', False))
            return _direction(source, to, blocks)
        if name == '_to_copy' and kwargs.get('device') is not None:
            to = torch.device(kwargs['device']).type == NAME
            return _direction(_on(args[0]), to, not kwargs.get('non_blocking', False))
        if not on: return None
        if name in _WAITS: return name
        if name not in _INDEXING: return None
        ids = [o for o in args[1] if o is not None]
        if any(o.dtype in (torch.bool, torch.uint8) for o in ids): return 'index by a mask'
        if _on(args[0]) and not all(map(_on, ids)): return 'index of the host'

def _direction(source, to, blocks):
    if source == to: return None
    if to: return 'copy to the device' if blocks else None
    return 'copy to the host'
