/*
 * The few functions of CUDA's runtime that must answer something before ONNX Runtime's CUDA provider makes a session:
 * one device with an A100's compute capability, and memory that is the host's. All others are made by
 * cuda_stand_in.py and do nothing. Nothing computes here: kernels are registered, launched, and never run.
 *
 * With CUDA_STAND_IN_COPIES set, each copy is a line "copy to-device|to-host|on-device BYTES" on stderr. One byte to
 * the host is a Loop's condition, and answers "go on", since nothing has computed it. With CUDA_STAND_IN_CALLS set,
 * what a GPU would have to start is a line "call NAME", and memory that is pinned "pinned BYTES".
 */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t MEMORY = 80ul << 30;
static char handle[4096];


cudaError_t cudaGetDeviceCount(int *count) { return *count = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int *device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) { return *available = *total = MEMORY, cudaSuccess; }
const char *cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "error"; }
const char *cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
  (void)device;
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "stand-in, no GPU");
  properties->major = 8;
  properties->minor = 0;
  properties->totalGlobalMem = MEMORY;
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = 163 << 10;
  properties->sharedMemPerMultiprocessor = 164 << 10;
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->multiProcessorCount = 108;
  properties->l2CacheSize = 40 << 20;
  for (int i = 0; i < 3; i++) properties->maxThreadsDim[i] = 64, properties->maxGridSize[i] = 65535;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device) {
  struct cudaDeviceProp properties;
  cudaGetDeviceProperties(&properties, device);
  *value = attribute == cudaDevAttrComputeCapabilityMajor      ? properties.major
           : attribute == cudaDevAttrComputeCapabilityMinor    ? properties.minor
           : attribute == cudaDevAttrMultiProcessorCount       ? properties.multiProcessorCount
           : attribute == cudaDevAttrMaxSharedMemoryPerBlock   ? (int)properties.sharedMemPerBlock
           : attribute == cudaDevAttrMaxThreadsPerBlock        ? properties.maxThreadsPerBlock
                                                               : 0;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t size) {
  return (*memory = calloc(1, size ? size : 1)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaMallocHost(void **memory, size_t size) {
  if (getenv("CUDA_STAND_IN_CALLS")) fprintf(stderr, "pinned %zu\n", size);
  return cudaMalloc(memory, size);
}
cudaError_t cudaHostAlloc(void **memory, size_t size, unsigned flags) { return (void)flags, cudaMallocHost(memory, size); }
cudaError_t cudaFree(void *memory) { return free(memory), cudaSuccess; }
cudaError_t cudaFreeHost(void *memory) { return cudaFree(memory); }
cudaError_t cudaMemset(void *memory, int value, size_t size) {
  if (getenv("CUDA_STAND_IN_CALLS")) fprintf(stderr, "call cudaMemset\n");
  return memset(memory, value, size), cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream) {
  return (void)stream, cudaMemset(memory, value, size);
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind) {
  const char *kinds[] = {"on-host", "to-device", "to-host", "on-device", "anywhere"};
  if (getenv("CUDA_STAND_IN_COPIES")) fprintf(stderr, "copy %s %zu\n", kinds[kind], size);
  memmove(to, from, size);
  if (kind == cudaMemcpyDeviceToHost && size == 1) *(char *)to = 1;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream) {
  return (void)stream, cudaMemcpy(to, from, size, kind);
}

/* What the compiler makes every CUDA library call as it loads. */
void **__cudaRegisterFatBinary(void *binary) { return (void)binary, (void **)handle; }

/* Of libcudnn, which asks to be 9 or newer. */
size_t cudnnGetVersion(void) { return 90000; }
