/* Memory: "device" memory is host memory under another name; mapped host memory has two addresses for the same pages. */
#define _GNU_SOURCE
#include "emulated.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum role { DEVICE, HOST };
struct block { enum role role; uintptr_t address, alias; size_t bytes; unsigned flags; int is_registered; struct block *next; };
static struct block *blocks;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int is_within(uintptr_t start, size_t size, uintptr_t address, size_t bytes) {
    return start && address >= start && bytes <= size && address - start <= size - bytes;
}

int emu_is_device(uintptr_t address, size_t bytes) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next)
        found |= is_within(b->role == DEVICE ? b->address : b->alias, b->bytes, address, bytes);
    pthread_mutex_unlock(&lock);
    return found;
}

int emu_is_page_locked(uintptr_t address, size_t bytes) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next) found |= b->role == HOST && is_within(b->address, b->bytes, address, bytes);
    pthread_mutex_unlock(&lock);
    return found;
}

static void add(struct block fresh) {
    struct block *b = malloc(sizeof *b);
    *b = fresh;
    pthread_mutex_lock(&lock);
    b->next = blocks;
    blocks = b;
    emu_live_counts[fresh.role == DEVICE ? LIVE_DEVICE : LIVE_HOST]++;
    emu_live_counts[LIVE_BYTES] += (long)fresh.bytes;
    pthread_mutex_unlock(&lock);
}

static int take(enum role role, uintptr_t address, struct block *taken) {
    int found = 0;
    pthread_mutex_lock(&lock);
    for (struct block **at = &blocks; *at; at = &(*at)->next) {
        if ((*at)->role != role || (*at)->address != address) continue;
        struct block *gone = *at;
        *taken = *gone;
        *at = gone->next;
        free(gone);
        emu_live_counts[role == DEVICE ? LIVE_DEVICE : LIVE_HOST]--;
        emu_live_counts[LIVE_BYTES] -= (long)taken->bytes;
        found = 1;
        break;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

static int is_out_of_memory(size_t bytes) {
    return emu_live_counts[LIVE_BYTES] + (long)bytes > emu_config[CFG_TOTAL_MB] * 1048576L;
}

CUresult cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
    ENTER_CONTEXT();
    CUresult forbidden = emu_forbidden_in_capture();
    if (forbidden) return forbidden;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (is_out_of_memory(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(memory, POISON, bytes);
    add((struct block){.role = DEVICE, .address = (uintptr_t)memory, .bytes = bytes});
    *pointer = (CUdeviceptr)memory;
    return CUDA_SUCCESS;
}

/* Frees even when an earlier fatal error is reported: the count says whether the program tried. */
CUresult cuMemFree(CUdeviceptr pointer) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    emu_drain_all();
    struct block gone;
    if (!take(DEVICE, (uintptr_t)pointer, &gone)) return CUDA_ERROR_INVALID_VALUE;
    munmap((void *)gone.address, gone.bytes);
    return fault;
}

CUresult cuMemHostAlloc(void **pointer, size_t bytes, unsigned int flags) {
    ENTER_CONTEXT();
    CUresult forbidden = emu_forbidden_in_capture();
    if (forbidden) return forbidden;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (is_out_of_memory(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    int file = memfd_create("emulated-host", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
    void *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    void *alias = flags & CU_MEMHOSTALLOC_DEVICEMAP ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : NULL;
    close(file);
    if (host == MAP_FAILED || alias == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(host, POISON, bytes);
    add((struct block){.role = HOST, .address = (uintptr_t)host, .alias = (uintptr_t)alias, .bytes = bytes, .flags = flags});
    *pointer = host;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost(void **pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

CUresult cuMemFreeHost(void *pointer) {
    CUresult fault = emu_enter_context(__func__);
    if (fault && fault != (CUresult)emu_sticky) return fault;
    emu_drain_all();
    struct block gone;
    if (!take(HOST, (uintptr_t)pointer, &gone)) return CUDA_ERROR_INVALID_VALUE;
    munmap((void *)gone.address, gone.bytes);
    if (gone.alias) munmap((void *)gone.alias, gone.bytes);
    return fault;
}

CUresult cuMemHostRegister(void *pointer, size_t bytes, unsigned int flags) {
    ENTER_CONTEXT();
    add((struct block){.role = HOST, .address = (uintptr_t)pointer, .bytes = bytes, .flags = flags, .is_registered = 1});
    return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void *pointer) {
    CUresult fault = emu_enter_context(__func__);
    struct block gone;
    if (!take(HOST, (uintptr_t)pointer, &gone)) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    return fault;
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *device, void *host, unsigned int flags) {
    ENTER_CONTEXT();
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next) {
        if (b->role != HOST || !b->alias || !is_within(b->address, b->bytes, (uintptr_t)host, 1)) continue;
        *device = b->alias + ((uintptr_t)host - b->address);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuMemHostGetFlags(unsigned int *flags, void *host) {
    ENTER_CONTEXT();
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (struct block *b = blocks; b; b = b->next)
        if (b->role == HOST && b->address == (uintptr_t)host) { *flags = b->flags; result = CUDA_SUCCESS; }
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    ENTER_CONTEXT();
    *total_bytes = (size_t)emu_config[CFG_TOTAL_MB] << 20;
    *free_bytes = *total_bytes - (size_t)emu_live_counts[LIVE_BYTES];
    return CUDA_SUCCESS;
}

/* ---- copies: the synchronous ones wait for everything that was submitted before them ---- */

static CUresult copy_now(uintptr_t to, uintptr_t from, size_t bytes) {
    CUresult forbidden = emu_forbidden_in_capture();
    if (forbidden) return forbidden;
    CUresult result = emu_drain_all();
    if (!result) memcpy((void *)to, (const void *)from, bytes);
    return result;
}

static CUresult copy_later(uintptr_t to, uintptr_t from, size_t bytes, CUstream stream) {
    return emu_submit(stream, (struct op){.kind = OP_COPY, .to = to, .from = from, .bytes = bytes});
}

static int is_pageable(uintptr_t host, size_t bytes) {
    if (emu_is_page_locked(host, bytes)) return 0;
    emu_pageable_async++;
    return 1;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    ENTER_CONTEXT();
    return emu_is_device(to, bytes) ? copy_now(to, (uintptr_t)from, bytes) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    ENTER_CONTEXT();
    return emu_is_device(from, bytes) ? copy_now((uintptr_t)to, from, bytes) : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER_CONTEXT();
    if (!emu_is_device(to, bytes) || !emu_is_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return copy_now(to, from, bytes);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    ENTER_CONTEXT();
    if (!emu_is_device(to, bytes) || is_pageable((uintptr_t)from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return copy_later(to, (uintptr_t)from, bytes, stream);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER_CONTEXT();
    if (!emu_is_device(from, bytes) || is_pageable((uintptr_t)to, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return copy_later((uintptr_t)to, from, bytes, stream);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER_CONTEXT();
    if (!emu_is_device(to, bytes) || !emu_is_device(from, bytes)) return CUDA_ERROR_INVALID_VALUE;
    return copy_later(to, from, bytes, stream);
}

static CUresult set_later(CUdeviceptr to, unsigned value, unsigned width, size_t count, CUstream stream) {
    if (!emu_is_device(to, count * width)) return CUDA_ERROR_INVALID_VALUE;
    return emu_submit(stream, (struct op){.kind = OP_SET, .to = to, .value = value, .width = width, .bytes = count});
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
    ENTER_CONTEXT();
    CUresult result = set_later(to, value, 1, count, NULL);
    return result ? result : emu_drain_all();
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned int value, size_t count) {
    ENTER_CONTEXT();
    CUresult result = set_later(to, value, 4, count, NULL);
    return result ? result : emu_drain_all();
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    ENTER_CONTEXT();
    return set_later(to, value, 1, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
    ENTER_CONTEXT();
    return set_later(to, value, 4, count, stream);
}
