/* Fake CUDA driver in host memory with the functions that cuda.py calls. Streams execute work
   immediately, a capture records it, and a graph replays the record. One kernel: y = 2 x. */
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;
struct Step { int is_kernel; char *to; const char *from; size_t size; };
static struct Step steps[64];
static int recorded, capturing;
int host_live, host_launches, host_fail_capture;
size_t host_free_bytes = 1 << 20;

static int work(struct Step s) {
  if (capturing) { steps[recorded++] = s; return 0; }
  if (!s.is_kernel) memcpy(s.to, s.from, s.size);
  else for (size_t k = 0; k < s.size; ++k) ((float *)s.to)[k] = 2 * ((const float *)s.from)[k];
  return 0;
}
static void *allocate(size_t size) { ++host_live; return memset(malloc(size), 0xff, size); }

int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Host", length); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)0x10; return 0; }
int cuCtxSetCurrent(void *context) { return context == (void *)0x10 ? 0 : 201; }
int cuMemAlloc_v2(Address *pointer, size_t size) {
  if (size > host_free_bytes) return 2;
  *pointer = (Address)allocate(size); return 0; }
int cuMemFree_v2(Address pointer) { free((void *)pointer); --host_live; return 0; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) { *pointer = allocate(size); return 0; }
int cuMemFreeHost(void *pointer) { free(pointer); --host_live; return 0; }
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, void *stream) {
  return work((struct Step){0, (char *)to, from, size}); }
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, void *stream) {
  return work((struct Step){0, to, (const char *)from, size}); }
int cuStreamCreate(void **stream, unsigned flags) { *stream = allocate(1); return flags == 1 ? 0 : 1; }
int cuStreamDestroy_v2(void *stream) { free(stream); --host_live; return 0; }
int cuStreamSynchronize(void *stream) { return capturing ? 900 : 0; }
int cuStreamBeginCapture_v2(void *stream, int mode) {
  if (host_fail_capture) return 801;
  capturing = 1; recorded = 0; return 0; }
int cuStreamEndCapture(void *stream, void **graph) { capturing = 0; *graph = allocate(1); return 0; }
int cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long flags) {
  *executable = allocate(1); return 0; }
int cuGraphLaunch(void *executable, void *stream) {
  ++host_launches;
  for (int k = 0; k < recorded; ++k) work(steps[k]);
  return 0; }
int cuGraphDestroy(void *graph) { free(graph); --host_live; return 0; }
int cuGraphExecDestroy(void *executable) { free(executable); --host_live; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
  *free = host_free_bytes; *total = 4 * host_free_bytes; return 0; }
int cuDriverGetVersion(int *version) { *version = 12040; return 0; }
int cuGetErrorName(int status, const char **text) {
  *text = status == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : status == 101 ? "CUDA_ERROR_INVALID_DEVICE"
        : "CUDA_ERROR"; return 0; }
int host_double(Address to, Address from, size_t count) {
  return work((struct Step){1, (char *)to, (const char *)from, count}); }
