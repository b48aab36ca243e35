// Runs a package of lowbit.export_package on tensors, without Python (docs/packages.md). TORCH is the folder of LibTorch, or of the Python package.
//
//   ${CXX:-g++} -std=c++20 -O1 run_package.cpp -I$TORCH/include -L$TORCH/lib -Wl,-rpath,$TORCH/lib -ltorch_cpu -lc10 -o run_package
//   ./run_package liblowbit_ops.so model.pt2 inputs.pt outputs.pt
//
// inputs.pt is a list of tensors from torch.save: the leaves of the example's arguments in their order. outputs.pt is a tuple for torch.load.
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <fstream>
#include <iostream>
#include <iterator>

namespace {

// Defines the ops and loads their kernels. The layout of packed weights changes between versions: a package is for the one that it names.
void load_ops(const char* library, const std::string& wanted) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_GLOBAL);
  TORCH_CHECK(handle, dlerror());
  const auto abi = (const char* (*)())dlsym(handle, "lowbit_abi");
  TORCH_CHECK(abi && wanted == abi(), library, " is ", abi ? abi() : "of another kind", ", the package is for ", wanted);
}

std::vector<at::Tensor> read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, "cannot read ", path);
  const c10::IValue list = torch::jit::pickle_load({std::istreambuf_iterator<char>(file), {}});
  std::vector<at::Tensor> tensors;
  for (const c10::IValue& each : list.toListRef()) tensors.push_back(each.toTensor());
  return tensors;
}

void write(const char* path, const std::vector<at::Tensor>& tensors) {
  const std::vector<char> bytes = torch::jit::pickle_save(c10::ivalue::Tuple::create(std::vector<c10::IValue>(tensors.begin(), tensors.end())));
  std::ofstream file(path, std::ios::binary);
  TORCH_CHECK(file.write(bytes.data(), (std::streamsize)bytes.size()), "cannot write ", path);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::cerr << "run_package liblowbit_ops.so model.pt2 inputs.pt outputs.pt\n";
    return 2;
  }
  try {
    using torch::inductor::AOTIModelPackageLoader;
    load_ops(arguments[1], AOTIModelPackageLoader::load_metadata_from_package(arguments[2], "model")["lowbit_abi"]);
    AOTIModelPackageLoader model(arguments[2]);  // after the ops, which it looks up
    write(arguments[4], model.run(read(arguments[3])));
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
