/* The functions of the CUDA runtime, its driver and cuBLAS that PyTorch's memory depends on, without a GPU.

   All others are generated and only return success (see library.py). Device addresses rise and are never used again.
   The driver maps memory in pages of 2 MiB. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vector_types.h"
#include "driver_types.h"

typedef unsigned long long u64;

#define FIRST_ADDRESS 0x100000000000ULL
#define PAGE (2ULL << 20)

static u64 total, used, others, next_address = FIRST_ADDRESS;
static int major, minor, multiprocessors;
static const char *name;
static cudaError_t last_error;

static u64 number(const char *variable) {
    const char *value = getenv(variable);
    return value ? strtoull(value, NULL, 10) : 0;
}

__attribute__((constructor)) static void read_environment(void) {
    const char *given = getenv("STUB_GPU_NAME");
    name = given ? given : "stub";
    total = number("STUB_GPU_MEMORY");
    used = number("STUB_GPU_CONTEXT");
    major = (int)number("STUB_GPU_MAJOR");
    minor = (int)number("STUB_GPU_MINOR");
    multiprocessors = (int)number("STUB_GPU_MULTIPROCESSORS");
}

/* Memory. */

/* Set the bytes that other processes use. */
void stub_gpu_set_others(u64 bytes) { others = bytes; }

/* Return the bytes that this process uses. */
u64 stub_gpu_used(void) { return used; }

static int has_room(u64 bytes) { return used + others + bytes <= total; }

struct range {
    u64 address, bytes;
};
static struct range *ranges;
static long count, room;

static u64 whole_pages(u64 bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static cudaError_t failed(cudaError_t error) { return last_error = error; }

static u64 address_of(u64 bytes) {
    u64 address = next_address;
    next_address += bytes + PAGE;
    return address;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    u64 mapped = whole_pages(bytes);
    *pointer = NULL;
    if (!has_room(mapped)) return failed(cudaErrorMemoryAllocation);
    if (count == room) ranges = realloc(ranges, (room = room ? 2 * room : 1024) * sizeof *ranges);
    used += mapped;
    ranges[count] = (struct range){address_of(mapped), mapped};
    *pointer = (void *)ranges[count++].address;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer) {
    for (long n = count - 1; n >= 0; n--)
        if (ranges[n].address == (u64)pointer) {
            used -= ranges[n].bytes;
            memmove(ranges + n, ranges + n + 1, (--count - n) * sizeof *ranges);
            return cudaSuccess;
        }
    return pointer ? failed(cudaErrorInvalidValue) : cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    *free_bytes = total - used - others;
    *total_bytes = total;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags) {
    *pointer = calloc(1, bytes ? bytes : 1);
    return cudaSuccess;
}

/* Managed memory, in which paged optimizers keep their states, is on the host here. */
cudaError_t cudaMallocManaged(void **pointer, size_t bytes, unsigned flags) { return cudaHostAlloc(pointer, bytes, 0); }

cudaError_t cudaFreeHost(void *pointer) {
    free(pointer);
    return cudaSuccess;
}

static int is_on_device(const void *pointer) { return (u64)pointer >= FIRST_ADDRESS && (u64)pointer < next_address; }

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
    if (is_on_device(to)) return cudaSuccess;
    if (is_on_device(from)) memset(to, 0, bytes);
    else memcpy(to, from, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    return cudaMemcpy(to, from, bytes, kind);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer) {
    memset(attributes, 0, sizeof *attributes);
    attributes->type = is_on_device(pointer) ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
    if (is_on_device(pointer)) attributes->devicePointer = (void *)pointer;
    else attributes->hostPointer = (void *)pointer;
    return cudaSuccess;
}

/* The driver's virtual memory, which expandable segments map. */

int cuMemCreate(u64 *handle, size_t bytes, const void *properties, u64 flags) {
    u64 *mapped = malloc(sizeof *mapped);
    *mapped = whole_pages(bytes);
    if (!has_room(*mapped)) {
        free(mapped);
        return cudaErrorMemoryAllocation;
    }
    used += *mapped;
    *handle = (u64)mapped;
    return 0;
}

int cuMemRelease(u64 handle) {
    used -= *(u64 *)handle;
    free((void *)handle);
    return 0;
}

int cuMemAddressReserve(u64 *address, size_t bytes, size_t alignment, u64 at, u64 flags) {
    *address = address_of(bytes);
    return 0;
}

int cuMemGetAllocationGranularity(size_t *bytes, const void *properties, int option) {
    *bytes = PAGE;
    return 0;
}

int cuCtxGetCurrent(u64 *value) {
    *value = 1;
    return 0;
}

int cuPointerGetAttribute(u64 *value, int attribute, u64 pointer) { return cuCtxGetCurrent(value); }

static int nothing(void) { return 0; }

cudaError_t cudaGetDriverEntryPointByVersion(const char *wanted, void **function, unsigned version, u64 flags,
                                             int *status) {
    void *found = dlsym(RTLD_DEFAULT, wanted);
    *function = found ? found : nothing;
    if (status) *status = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(const char *wanted, void **function, u64 flags, int *status) {
    return cudaGetDriverEntryPointByVersion(wanted, function, 0, flags, status);
}

/* The device. Source of its limits: CUDA C++ Programming Guide, technical specifications per compute capability. */

static int is_capability(int of_major, int of_minor) { return major == of_major && minor == of_minor; }

/* Return the KiB of shared memory of a multiprocessor. */
static int shared_memory(void) {
    if (major == 9 || major == 10) return 228;
    if (is_capability(8, 0) || is_capability(8, 7)) return 164;
    if (major == 8 || major > 10) return 100;
    if (is_capability(7, 5) || is_capability(6, 0)) return 64;
    return 96;
}

/* Return the KiB of shared memory that a block can have. */
static int shared_memory_of_block(void) {
    if (major >= 8) return shared_memory() - 1;
    return major == 7 ? shared_memory() : 48;
}

static int threads(void) {
    if (is_capability(7, 5)) return 1024;
    return (major == 8 && minor) || major > 10 ? 1536 : 2048;
}

cudaError_t cudaGetDeviceCount(int *devices) {
    *devices = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) { return device ? failed(cudaErrorInvalidDevice) : cudaSuccess; }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *found, int device) {
    memset(found, 0, sizeof *found);
    snprintf(found->name, sizeof found->name, "%s", name);
    found->totalGlobalMem = total;
    found->major = major;
    found->minor = minor;
    found->multiProcessorCount = multiprocessors;
    found->warpSize = 32;
    found->maxThreadsPerBlock = 1024;
    found->maxThreadsPerMultiProcessor = threads();
    found->sharedMemPerBlock = 48 << 10;
    found->sharedMemPerBlockOptin = (size_t)shared_memory_of_block() << 10;
    found->sharedMemPerMultiprocessor = (size_t)shared_memory() << 10;
    found->regsPerBlock = found->regsPerMultiprocessor = 1 << 16;
    found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
    found->maxThreadsDim[2] = 64;
    found->maxGridSize[0] = 0x7fffffff;
    found->maxGridSize[1] = found->maxGridSize[2] = 65535;
    found->textureAlignment = 512;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties_v2(struct cudaDeviceProp *found, int device) {
    return cudaGetDeviceProperties(found, device);
}

cudaError_t cudaDeviceGetAttribute(int *value, int attribute, int device) {
    struct cudaDeviceProp found;
    cudaGetDeviceProperties(&found, device);
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = found.maxThreadsPerBlock; break;
        case cudaDevAttrMaxBlockDimX: *value = found.maxThreadsDim[0]; break;
        case cudaDevAttrMaxBlockDimY: *value = found.maxThreadsDim[1]; break;
        case cudaDevAttrMaxBlockDimZ: *value = found.maxThreadsDim[2]; break;
        case cudaDevAttrMaxGridDimX: *value = found.maxGridSize[0]; break;
        case cudaDevAttrMaxGridDimY: *value = found.maxGridSize[1]; break;
        case cudaDevAttrMaxGridDimZ: *value = found.maxGridSize[2]; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)found.sharedMemPerBlock; break;
        case cudaDevAttrWarpSize: *value = found.warpSize; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = found.regsPerBlock; break;
        case cudaDevAttrMultiProcessorCount: *value = found.multiProcessorCount; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor: *value = found.maxThreadsPerMultiProcessor; break;
        case cudaDevAttrComputeCapabilityMajor: *value = found.major; break;
        case cudaDevAttrComputeCapabilityMinor: *value = found.minor; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)found.sharedMemPerMultiprocessor; break;
        case cudaDevAttrMaxRegistersPerMultiprocessor: *value = found.regsPerMultiprocessor; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)found.sharedMemPerBlockOptin; break;
        default: *value = 0;
    }
    return cudaSuccess;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    return cudaDeviceGetAttribute(value, attribute, device);
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, length, "0000:00:00.0");
    return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) {
    *can = 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDA_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDA_VERSION;
    return cudaSuccess;
}

const char *cudaGetErrorName(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error of the stub";
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void) { return last_error; }

/* Streams, events and other handles, which nothing waits for. */

static int new_handle(void **handle) {
    static u64 last = FIRST_ADDRESS >> 8;
    *handle = (void *)(last += 64);
    return 0;
}

#define HANDLE(function) \
    int function(void **handle) { return new_handle(handle); }
HANDLE(cudaStreamCreate)
HANDLE(cudaStreamCreateWithFlags)
HANDLE(cudaStreamCreateWithPriority)
HANDLE(cudaEventCreate)
HANDLE(cudaEventCreateWithFlags)
HANDLE(cudaLibraryLoadData)
HANDLE(cudaLibraryGetKernel)
HANDLE(cublasCreate_v2)
HANDLE(cublasLtMatmulDescCreate)
HANDLE(cublasLtMatmulPreferenceCreate)
HANDLE(cublasLtMatrixLayoutCreate)

#define ZERO(function) \
    int function(void *unused, int *value) { return *value = 0; }
ZERO(cudaStreamGetPriority)
ZERO(cudaStreamIsCapturing)
ZERO(cudaStreamGetCaptureInfo)
ZERO(cudaStreamGetCaptureInfo_v2)
ZERO(cudaStreamGetCaptureInfo_v3)
ZERO(cublasGetMathMode)
ZERO(cublasGetPointerMode_v2)

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, void *start, void *end) {
    *milliseconds = 0;
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime_v2(float *milliseconds, void *start, void *end) {
    return cudaEventElapsedTime(milliseconds, start, end);
}

/* Kernels, which do nothing. */

void **__cudaRegisterFatBinary(void *binary) {
    static void *handle[1];
    return handle;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void *stream) { return 0; }

cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *shared, void **stream) {
    *grid = *block = (dim3){1, 1, 1};
    *shared = 0;
    *stream = NULL;
    return cudaSuccess;
}

cudaError_t __cudaGetKernel(const void **kernel, const void *function) {
    *kernel = function;
    return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void **pointer, const void *symbol) {
    *pointer = (void *)FIRST_ADDRESS;
    return cudaSuccess;
}

/* Return the compute capability of the code that a GPU runs, times 10: the largest of its generation that torch is
   compiled for and that is not above its own. cub has a kernel of each of these alone. */
static int of_code(void) {
    static const int compiled_for[] = {COMPILED_FOR};
    int own = 10 * major + minor, found = 0;
    for (int n = 0; n < sizeof compiled_for / sizeof *compiled_for; n++)
        if (compiled_for[n] / 10 == major && compiled_for[n] <= own && compiled_for[n] > found) found = compiled_for[n];
    return found ? found : own;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *function) {
    memset(attributes, 0, sizeof *attributes);
    attributes->maxThreadsPerBlock = 1024;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = of_code();
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *function, int size, size_t shared) {
    *blocks = 2;
    return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int size,
                                                                   size_t shared, unsigned flags) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, size, shared);
}

/* cuBLAS. Its algorithm needs no workspace in addition to PyTorch's own. */

struct heuristic {
    u64 algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

int cublasLtMatmulAlgoGetHeuristic(void *handle, void *operation, void *a, void *b, void *c, void *d, void *preference,
                                   int wanted, struct heuristic *results, int *found) {
    memset(results, 0, sizeof *results);
    *found = 1;
    return 0;
}
