/* What tests order and ask: faults, counts, the make of the device. Read through ctypes by emulated.py. */
#define _GNU_SOURCE
#include "emulated.h"
#include <string.h>
#include <time.h>
#include <unistd.h>

long emu_live_counts[LIVE_KINDS];
long emu_config[CFG_KINDS] = {0, 16, 8, 7, 16384, 1};
long emu_pageable_async;
int emu_sticky;
int emu_is_initialised;

enum { FAULTS = 16, NAMES = 256, NAME_BYTES = 48 };
static struct fault { char name[NAME_BYTES]; long nth; int code, is_sticky; double hang_s; int is_armed; } faults[FAULTS];
static struct { char name[NAME_BYTES]; long calls; } names[NAMES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static long *calls_of(const char *name) {
    for (int i = 0; i < NAMES; i++) {
        if (!names[i].name[0]) strncpy(names[i].name, name, NAME_BYTES - 1);
        if (!strncmp(names[i].name, name, NAME_BYTES - 1)) return &names[i].calls;
    }
    return &names[NAMES - 1].calls;
}

CUresult emu_enter(const char *name) {
    pthread_mutex_lock(&lock);
    (*calls_of(name))++;
    CUresult code = CUDA_SUCCESS;
    double hang_s = 0;
    for (int i = 0; i < FAULTS; i++) {
        struct fault *fault = &faults[i];
        if (!fault->is_armed || strcmp(fault->name, name) || --fault->nth > 0) continue;
        fault->is_armed = 0;
        code = fault->code;
        hang_s = fault->hang_s;
        if (fault->is_sticky) emu_sticky = fault->code;
    }
    pthread_mutex_unlock(&lock);
    if (hang_s > 0) {
        struct timespec pause = {(time_t)hang_s, (long)((hang_s - (double)(time_t)hang_s) * 1e9)};
        nanosleep(&pause, NULL);
    }
    return code;
}

CUresult emu_enter_context(const char *name) {
    CUresult fault = emu_enter(name);
    if (fault) return fault;
    if (!emu_is_initialised) return CUDA_ERROR_NOT_INITIALIZED;
    if (!emu_has_current()) return CUDA_ERROR_INVALID_CONTEXT;
    return (CUresult)emu_sticky;
}

/* ---- for the tests ---- */

/* Orders the nth call from now of `name` to fail with `code`; a sticky fault ends the context, as on a GPU. */
int emu_fail(const char *name, long nth, int code, int is_sticky, double hang_s) {
    for (int i = 0; i < FAULTS; i++) {
        if (faults[i].is_armed) continue;
        faults[i] = (struct fault){"", nth, code, is_sticky, hang_s, 1};
        strncpy(faults[i].name, name, NAME_BYTES - 1);
        return 0;
    }
    return 1;
}

/* A kernel that went wrong on the "device": the double reports what a GPU would have noticed. */
void emu_device_fault(int code) { emu_sticky = code; }

void emu_reset(void) {
    memset(faults, 0, sizeof faults);
    memset(names, 0, sizeof names);
    emu_sticky = 0;
    emu_pageable_async = 0;
    long fresh[CFG_KINDS] = {0, 16, 8, 7, 16384, 1};
    memcpy(emu_config, fresh, sizeof fresh);
}

void emu_configure(int key, long value) { emu_config[key] = value; }
long emu_live(int kind) { return emu_live_counts[kind]; }
long emu_calls(const char *name) { return *calls_of(name); }
long emu_pageable(void) { return emu_pageable_async; }
int emu_is_device_range(uintptr_t address, size_t bytes) { return emu_is_device(address, bytes); }
