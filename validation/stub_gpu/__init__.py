"""A stub of the CUDA runtime, so that PyTorch's CUDA code runs on a machine without a GPU.

PyTorch selects its kernels, allocates their tensors and workspaces, and serves them from its caching allocator as on a
GPU. The stub counts the memory that the allocator requests, and refuses what the GPU has no room for. Kernels do
nothing, and copies from the device give zeros. So memory is real, and values are not. What the closed libraries
allocate by themselves is missing: cuDNN's kernels, and workspaces that cuBLAS requests in addition to PyTorch's own.

It needs a CUDA build of torch, for Linux, and a C compiler. Its library is preloaded into the process.
"""
