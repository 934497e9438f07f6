// A pretend accelerator, compiled and used by pretend.py: PyTorch's backend for devices that it does not know itself
// (PrivateUse1). Its memory is the host's and every operation runs on the CPU, but tensors of different devices are
// told apart as strictly as CUDA does it.
#include <torch/extension.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_index_put_impl_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {
using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
using c10::Stream;
using Maybe = std::optional<Tensor>;
constexpr c10::DeviceType KIND = c10::DeviceType::PrivateUse1;
constexpr DeviceIndex N_DEVICES = 2;
thread_local DeviceIndex current = 0;

// ---- memory, and memory that is pinned for it

struct DeviceMemory final : c10::Allocator {
  static std::mutex& lock() { static std::mutex m; return m; }
  static std::map<void*, size_t>& sizes() { static std::map<void*, size_t> s; return s; }
  inline static size_t held = 0, most = 0; // bytes
  static void release(void* p) {
    { std::lock_guard<std::mutex> g(lock()); held -= sizes()[p]; sizes().erase(p); }
    std::free(p);
  }
  c10::DataPtr allocate(size_t n) override {
    void* p = nullptr;
    if (!n) return {p, p, &release_nothing, Device(KIND, current)};
    TORCH_CHECK(posix_memalign(&p, 64, n) == 0, "pretend: out of memory");
    std::lock_guard<std::mutex> g(lock());
    sizes()[p] = n;
    held += n;
    most = std::max(most, held);
    return {p, p, &release, Device(KIND, current)};
  }
  static void release_nothing(void*) {}
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};

struct PinnedMemory final : c10::Allocator {
  static std::mutex& lock() { static std::mutex m; return m; }
  static std::set<const void*>& known() { static std::set<const void*> s; return s; }
  static bool holds(const void* p) { std::lock_guard<std::mutex> g(lock()); return known().count(p) > 0; }
  static void release(void* p) {
    { std::lock_guard<std::mutex> g(lock()); known().erase(p); }
    std::free(p);
  }
  c10::DataPtr allocate(size_t n) override {
    void* p = nullptr;
    TORCH_CHECK(posix_memalign(&p, 64, n ? n : 1) == 0, "pretend: out of memory");
    { std::lock_guard<std::mutex> g(lock()); known().insert(p); }
    return {p, p, &release, Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};

DeviceMemory device_memory;
PinnedMemory pinned_memory;
REGISTER_ALLOCATOR(KIND, &device_memory);

// ---- which device, which stream

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return KIND; }
  Device exchangeDevice(Device d) const override { return Device(KIND, std::exchange(current, d.index())); }
  Device getDevice() const override { return Device(KIND, current); }
  void setDevice(Device d) const override { current = d.index(); }
  void uncheckedSetDevice(Device d) const noexcept override { current = d.index(); }
  Stream getStream(Device d) const noexcept override { return Stream(Stream::DEFAULT, d); }
  Stream getDefaultStream(Device d) const override { return Stream(Stream::DEFAULT, d); }
  Stream getNewStream(Device d, int = 0) const override { return Stream(Stream::DEFAULT, d); }
  Stream getStreamFromGlobalPool(Device d, bool = false) const override { return Stream(Stream::DEFAULT, d); }
  Stream exchangeStream(Stream s) const noexcept override { return s; }
  DeviceIndex deviceCount() const noexcept override { return N_DEVICES; }
  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

// ---- random numbers: a stream of the device's own, which does not notice that of the CPU

struct DeviceGenerator final : c10::GeneratorImpl {
  at::Generator host;
  explicit DeviceGenerator(DeviceIndex i, at::Generator g = at::detail::createCPUGenerator())
      : GeneratorImpl(Device(KIND, i), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)), host(std::move(g)) {}
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  void set_offset(uint64_t offset) override { host.set_offset(offset); }
  uint64_t get_offset() const override { return host.get_offset(); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
  GeneratorImpl* clone_impl() const override { return new DeviceGenerator(device().index(), host.clone()); }
};
at::Generator& default_generator(DeviceIndex i) {
  static std::vector<at::Generator> all{at::make_generator<DeviceGenerator>(0), at::make_generator<DeviceGenerator>(1)};
  return all.at(i < 0 ? current : i);
}

struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const override {}
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  DeviceIndex deviceCount() const override { return N_DEVICES; }
  void setCurrentDevice(DeviceIndex d) const override { current = d; }
  DeviceIndex getCurrentDevice() const override { return current; }
  DeviceIndex exchangeDevice(DeviceIndex d) const override { return std::exchange(current, d); }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { return std::exchange(current, d); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned_memory; }
  bool isPinnedPtr(const void* p) const override { return PinnedMemory::holds(p); }
  const at::Generator& getDefaultGenerator(DeviceIndex i) const override { return default_generator(i); }
  at::Generator getNewGenerator(DeviceIndex i) const override {
    return at::make_generator<DeviceGenerator>(i < 0 ? current : i);
  }
};

// ---- what CUDA refuses

using Names = std::set<std::string>;
const Names indexing{"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
                     "aten::_unsafe_index", "aten::_unsafe_index_put"};
const Names copying{"aten::copy_", "aten::_copy_from", "aten::_copy_from_and_resize", "aten::_to_copy", "aten::to",
                    "aten::_foreach_copy_", "aten::_pack_padded_sequence", "aten::record_stream",
                    "aten::_amp_update_scale_"};
// where TensorIterator does not help, a number of the CPU is refused too
const Names no_numbers{"aten::mm", "aten::addmm", "aten::bmm", "aten::cat", "aten::_cat", "aten::gather",
                       "aten::scatter", "aten::scatter_", "aten::scatter_add", "aten::scatter_add_", "aten::index_add",
                       "aten::index_add_", "aten::index_copy_", "aten::nll_loss_forward", "aten::mv", "aten::dot",
                       "aten::stack", "aten::embedding", "aten::searchsorted"};

template <class F> void each_tensor(const c10::IValue& v, F f) {
  if (v.isTensor()) {
    if (v.toTensor().defined()) f(v.toTensor());
  } else if (v.isTensorList()) {
    for (const Tensor& t : v.toTensorVector()) if (t.defined()) f(t);
  } else if (v.isOptionalTensorList()) {
    for (const Maybe& t : v.toOptionalTensorVector()) if (t && t->defined()) f(*t);
  }
}

void check_devices(const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const auto& name = op.schema().name();
  if (copying.count(name)) return;
  const auto& args = op.schema().arguments();
  const size_t start = stack.size() - args.size();
  std::optional<Device> device;
  for (size_t i = 0; i < args.size(); i++)
    each_tensor(stack[start + i], [&](const Tensor& t) { if (t.device().type() == KIND && !device) device = t.device(); });
  if (!device) return;
  const bool is_indexing = indexing.count(name);
  for (size_t i = 0; i < args.size(); i++) each_tensor(stack[start + i], [&](const Tensor& t) {
    if (t.device() == *device) return;
    if (is_indexing && i == 1 && t.is_cpu()) return; // PyTorch copies indices of the CPU
    if (t.is_cpu() && t.dim() == 0 && !is_indexing && !no_numbers.count(name)) return;
    TORCH_CHECK(false, "PRETEND ", op.schema().operator_name(), ": Expected all tensors to be on the same device, but ",
                "argument ", args[i].name(), " of shape ", t.sizes(), " is on ", t.device(), ", others are on ", *device);
  });
}

// What draws random numbers has the stream of the device; is there an argument for it?
bool give_generator(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const auto& args = op.schema().arguments();
  const size_t start = stack.size() - args.size();
  for (size_t i = 0; i < args.size(); i++) {
    if (args[i].name() != "generator") continue;
    auto& value = stack[start + i];
    at::Generator g = value.isNone() ? default_generator(-1) : value.toGenerator();
    TORCH_CHECK(g.device().type() == KIND, "PRETEND ", op.schema().operator_name(),
                ": Expected a 'pretend' device type for generator but found '", g.device(), "'");
    value = static_cast<DeviceGenerator*>(g.unsafeGetGeneratorImpl())->host;
    return true;
  }
  return false;
}

struct AsDefault { // within it the CPU's stream is that of the device
  at::Generator cpu = at::detail::getDefaultCPUGenerator(), mine = default_generator(-1);
  at::Generator was = cpu.clone();
  AsDefault() { cpu.set_state(mine.get_state()); }
  ~AsDefault() {
    mine.set_state(cpu.get_state());
    cpu.set_state(was.get_state());
  }
};

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  check_devices(op, *stack);
  std::optional<AsDefault> stream;
  if (!give_generator(op, *stack) && op.hasTag(at::Tag::nondeterministic_seeded)) stream.emplace();
  at::native::cpu_fallback(op, stack);
}

void same(const char* op, const Tensor& a, const Maybe& b) {
  TORCH_CHECK(!b || !b->defined() || a.device() == b->device(), "PRETEND ", op,
              ": Expected all tensors to be on the same device, but found ", a.device(), " and ", b->device());
}

// ---- the operations that a device must have itself

Tensor on_host(const Tensor& t) { // the same memory
  if (!t.defined() || t.is_cpu()) return t;
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU).requires_grad(false));
}
Maybe on_host(const Maybe& t) { return t && t->defined() ? Maybe(on_host(*t)) : Maybe(); }

c10::DeviceGuard guard_of(std::optional<Device> d) {
  return c10::DeviceGuard(d && d->has_index() ? *d : Device(KIND, current));
}
Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>,
             std::optional<Device> d, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  auto guard = guard_of(d);
  constexpr c10::DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &device_memory, key, c10::dtype_or_default(type), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> type,
                     std::optional<at::Layout>, std::optional<Device> d, std::optional<bool>) {
  auto guard = guard_of(d);
  constexpr c10::DispatchKeySet key(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &device_memory, key, c10::dtype_or_default(type));
}
Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  if (self.numel()) on_host(to).copy_(on_host(self.resolve_neg().resolve_conj()));
  return to;
}
Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  at::native::resize_(to, self.sizes(), std::nullopt);
  return copy_from(self, to, false);
}
at::Scalar item(const Tensor& self) { return on_host(self).item(); }

Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
                  std::optional<c10::SymInt> offset) {
  return at::cpu::as_strided_symint(self, size, stride, offset);
}
const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}
Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor view(const Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}
Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(self, dim, size, step);
}
Tensor& set_tensor(Tensor& self, const Tensor& source) { return at::native::set_tensor_(self, source); }
Tensor& set_storage(Tensor& self, at::Storage source) { return at::native::set_(self, source); }
Tensor& set_part(Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::cpu::set_(self, source, offset, size, stride);
}
bool is_set_to(const Tensor& a, const Tensor& b) {
  return a.storage().unsafeGetStorageImpl() == b.storage().unsafeGetStorageImpl() &&
         a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() && a.strides() == b.strides();
}

// indices may be on the CPU, values may not
Tensor& index_put(Tensor& self, const c10::List<Maybe>& ids, const Tensor& values, bool accumulate, bool unsafe) {
  if (self.is_cpu()) return at::native::_index_put_impl_(self, ids, values, accumulate, unsafe);
  TORCH_CHECK(values.device() == self.device() || values.dim() == 0, "PRETEND index_put_: values of shape ",
              values.sizes(), " are on ", values.device(), ", the table on ", self.device());
  c10::List<Maybe> here;
  for (size_t i = 0; i < ids.size(); i++) here.push_back(on_host(ids.get(i)));
  auto table = on_host(self);
  at::_index_put_impl_(table, here, on_host(values), accumulate, unsafe);
  return self;
}

// the CPU has no convolution in half precision
Tensor computable(const Tensor& t) { auto h = on_host(t); return h.defined() && h.scalar_type() == at::kHalf ? h.to(at::kFloat) : h; }
Tensor conv(const Tensor& x, const Tensor& w, const Maybe& b, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
            c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  same("convolution", x, w);
  same("convolution", x, b);
  Maybe bias = b && b->defined() ? Maybe(computable(*b)) : Maybe();
  return at::convolution_symint(computable(x), computable(w), bias, stride, padding, dilation, transposed,
                                output_padding, groups).to(x.scalar_type()).to(x.device());
}
std::tuple<Tensor, Tensor, Tensor> conv_backward(
    const Tensor& g, const Tensor& x, const Tensor& w, c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
    c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups,
    std::array<bool, 3> wanted) {
  same("convolution_backward", x, g);
  same("convolution_backward", x, w);
  std::vector<c10::SymInt> bias{transposed ? w.sym_size(1)*groups : w.sym_size(0)};
  auto [a, b, c] = at::convolution_backward_symint(
      computable(g), computable(x), computable(w), c10::SymIntArrayRef(bias), stride, padding, dilation, transposed,
      output_padding, groups, wanted);
  auto back = [&](const Tensor& t) { return t.defined() ? t.to(x.scalar_type()).to(x.device()) : t; };
  return {back(a), back(b), back(c)};
}

// it changes its running statistics without saying so in its schema, and the fallback would change copies
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const Maybe& w, const Maybe& b, const Maybe& mean,
                                              const Maybe& var, bool training, double momentum, double eps) {
  for (const Maybe& o : {w, b, mean, var}) same("native_batch_norm", x, o);
  auto [y, a, c] = at::native_batch_norm(on_host(x), on_host(w), on_host(b), on_host(mean), on_host(var), training,
                                         momentum, eps);
  return {y.to(x.device()), a.to(x.device()), c.to(x.device())};
}
} // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("resize_", resize_);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", item);
  m.impl("set_.source_Tensor", set_tensor);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("is_set_to", is_set_to);
  m.impl("view", view);
  m.impl("unfold", unfold);
  m.impl("_index_put_impl_", index_put);
  m.impl("native_batch_norm", batch_norm);
  m.impl("convolution_overrideable", conv);
  m.impl("convolution_backward_overrideable", conv_backward);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

// ---- autocast, by the lists of CUDA

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FP32_OPT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FP32)
  AT_FORALL_FP32_SET_OPT_DTYPE(FP32_OPT)
  AT_FORALL_PROMOTE(PROMOTE)
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  m.def("generator", &default_generator);
  m.def("most_held", [] { return DeviceMemory::most; });
  m.def("forget_most_held", [] { DeviceMemory::most = DeviceMemory::held; });
}
