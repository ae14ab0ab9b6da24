/* Device, primary context and the stack of current contexts of each thread. */
#include "emulated.h"
#include <stdio.h>
#include <string.h>

struct CUctx_st { int references; };
static struct CUctx_st primary;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum { DEPTH = 64 };
static __thread CUcontext stack[DEPTH];
static __thread int depth;

int emu_has_current(void) { return depth > 0 && stack[depth - 1] == &primary && primary.references > 0; }
int emu_stack_depth(void) { return depth; }

CUresult cuInit(unsigned int flags) {
    ENTER();
    emu_is_initialised = 1;
    return flags ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) { ENTER(); *version = CUDA_VERSION; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { ENTER(); *count = 1; return CUDA_SUCCESS; }

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    ENTER();
    if (!emu_is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    *device = ordinal;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
    ENTER();
    snprintf(name, (size_t)length, "emulated device %d over host memory (not a GPU)", device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
    ENTER();
    (void)device;
    *bytes = (size_t)emu_config[CFG_TOTAL_MB] << 20;
    return CUDA_SUCCESS;
}

CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    ENTER();
    (void)device;
    *major = (int)emu_config[CFG_CC_MAJOR];
    *minor = (int)emu_config[CFG_CC_MINOR];
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
    ENTER();
    (void)device;
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = (int)emu_config[CFG_SM_COUNT]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = (int)emu_config[CFG_CC_MAJOR]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = (int)emu_config[CFG_CC_MINOR]; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = (int)emu_config[CFG_INTEGRATED]; break;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: *value = (int)emu_config[CFG_MAP_HOST]; break;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: *value = 1; break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetPCIBusId(char *text, int length, CUdevice device) {
    ENTER();
    snprintf(text, (size_t)length, "0000:00:%02d.0", device);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    ENTER();
    if (!emu_is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    emu_live_counts[LIVE_PRIMARY] = ++primary.references;
    pthread_mutex_unlock(&lock);
    *context = &primary;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    ENTER();
    if (device) return CUDA_ERROR_INVALID_DEVICE;
    pthread_mutex_lock(&lock);
    CUresult result = primary.references > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
    if (!result) emu_live_counts[LIVE_PRIMARY] = --primary.references;
    if (!primary.references) emu_sticky = 0; /* a new primary context starts without the old one's error */
    pthread_mutex_unlock(&lock);
    return result;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
    ENTER();
    (void)device;
    *flags = 0;
    *active = primary.references > 0;
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent(CUcontext context) {
    ENTER();
    if (context != &primary || depth == DEPTH) return CUDA_ERROR_INVALID_CONTEXT;
    stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent(CUcontext *context) {
    ENTER();
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    ENTER();
    *context = depth ? stack[depth - 1] : NULL;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER();
    if (depth) depth--;
    if (context) stack[depth++] = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) { ENTER_CONTEXT(); *device = 0; return CUDA_SUCCESS; }
CUresult cuCtxGetFlags(unsigned int *flags) { ENTER_CONTEXT(); *flags = 0; return CUDA_SUCCESS; }

CUresult cuCtxGetApiVersion(CUcontext context, unsigned int *version) {
    ENTER();
    (void)context;
    *version = 3020;
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize(void) {
    ENTER_CONTEXT();
    CUresult forbidden = emu_forbidden_in_capture();
    return forbidden ? forbidden : emu_drain_all();
}

static const struct { CUresult code; const char *name, *text; } known[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

CUresult cuGetErrorName(CUresult code, const char **text) {
    *text = "CUDA_ERROR";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) if (known[i].code == code) *text = known[i].name;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult code, const char **text) {
    *text = "error of the driver";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) if (known[i].code == code) *text = known[i].text;
    return CUDA_SUCCESS;
}
